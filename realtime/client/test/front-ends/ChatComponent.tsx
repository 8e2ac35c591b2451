import React, { useEffect } from 'react';
import { useChat } from '../hooks/useChat';
import { useAuth } from '../contexts/AuthContext';

const ChatComponent: React.FC<{ conversationId: string }> = ({ conversationId }) => {
  const { user } = useAuth();
  const {
    messages,
    sendMessage,
    startTyping,
    stopTyping,
    markAsRead,
    isUserTyping,
    isUserOnline,
    isConnected,
  } = useChat(conversationId);

  const [inputValue, setInputValue] = React.useState('');

  // Mark messages as read when they arrive
  useEffect(() => {
    const unreadMessages = messages
      .filter(msg => msg.senderId !== user?.id && msg.status !== 'read')
      .map(msg => msg.id);

    if (unreadMessages.length > 0) {
      markAsRead(unreadMessages);
    }
  }, [messages, user?.id]);

  const handleSend = () => {
    if (inputValue.trim()) {
      sendMessage(inputValue.trim());
      setInputValue('');
      stopTyping();
    }
  };

  const handleInputChange = (e: React.ChangeEvent<HTMLInputElement>) => {
    setInputValue(e.target.value);
    if (e.target.value.length > 0) {
      startTyping();
    } else {
      stopTyping();
    }
  };

  return (
    <div>
      <div className="connection-status">
        {isConnected ? '🟢 Connected' : '🔴 Disconnected'}
      </div>

      <div className="messages">
        {messages.map(msg => (
          <div key={msg.id} className={msg.senderId === user?.id ? 'sent' : 'received'}>
            <p>{msg.content}</p>
            <span className="status">{msg.status}</span>
          </div>
        ))}
      </div>

      {/* Typing indicator */}
      {isUserTyping(otherUserId) && (
        <div className="typing-indicator">User is typing...</div>
      )}

      <div className="input-area">
        <input
          value={inputValue}
          onChange={handleInputChange}
          onKeyPress={e => e.key === 'Enter' && handleSend()}
          placeholder="Type a message..."
        />
        <button onClick={handleSend}>Send</button>
      </div>
    </div>
  );
};
