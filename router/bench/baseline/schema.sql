-- What a chat of the usual kind keeps: users, conversations, who is in them, and messages.

CREATE TABLE users (
  id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
  name VARCHAR(100) NOT NULL
) ENGINE = InnoDB;

CREATE TABLE conversations (
  id BIGINT UNSIGNED NOT NULL PRIMARY KEY AUTO_INCREMENT,
  type VARCHAR(16) NOT NULL,
  last_message_id BIGINT UNSIGNED NULL,
  last_message_preview VARCHAR(255) NULL,
  last_message_at DATETIME(3) NULL,
  created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)
) ENGINE = InnoDB;

CREATE TABLE conversation_members (
  conversation_id BIGINT UNSIGNED NOT NULL,
  user_id BIGINT UNSIGNED NOT NULL,
  last_read_message_id BIGINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (conversation_id, user_id),
  KEY of_user (user_id, conversation_id)
) ENGINE = InnoDB;

CREATE TABLE chat_messages (
  id BIGINT UNSIGNED NOT NULL PRIMARY KEY AUTO_INCREMENT,
  conversation_id BIGINT UNSIGNED NOT NULL,
  sender_id BIGINT UNSIGNED NOT NULL,
  client_msg_id CHAR(36) NULL,
  content TEXT NOT NULL,
  message_type VARCHAR(16) NOT NULL DEFAULT 'text',
  created_at DATETIME(3) NOT NULL,
  KEY of_conversation (conversation_id, id)
) ENGINE = InnoDB;
