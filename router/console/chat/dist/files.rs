// Written by build.mjs.
&[
    ("chat-914a20b1cf20.js", "text/javascript; charset=utf-8", include_bytes!("chat-914a20b1cf20.js")),
    ("icon-dd9466b846e8.svg", "image/svg+xml", include_bytes!("icon-dd9466b846e8.svg")),
    ("style-074a9baf039a.css", "text/css; charset=utf-8", include_bytes!("style-074a9baf039a.css")),
]
