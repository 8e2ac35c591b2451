// Written by build.mjs.
&[
    ("chat-3be03dba61a3.js", "text/javascript; charset=utf-8", include_bytes!("chat-3be03dba61a3.js")),
    ("icon-dd9466b846e8.svg", "image/svg+xml", include_bytes!("icon-dd9466b846e8.svg")),
    ("style-46d11cd782d5.css", "text/css; charset=utf-8", include_bytes!("style-46d11cd782d5.css")),
]
