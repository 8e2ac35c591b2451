// Written by build.mjs.
&[
    ("chat-41dcbe5f89ca.js", "text/javascript; charset=utf-8", include_bytes!("chat-41dcbe5f89ca.js")),
    ("icon-dd9466b846e8.svg", "image/svg+xml", include_bytes!("icon-dd9466b846e8.svg")),
    ("style-074a9baf039a.css", "text/css; charset=utf-8", include_bytes!("style-074a9baf039a.css")),
]
