// Written by build.mjs.
&[
    ("chat-2f2a39a9c108.js", "text/javascript; charset=utf-8", include_bytes!("chat-2f2a39a9c108.js")),
    ("icon-dd9466b846e8.svg", "image/svg+xml", include_bytes!("icon-dd9466b846e8.svg")),
    ("style-074a9baf039a.css", "text/css; charset=utf-8", include_bytes!("style-074a9baf039a.css")),
]
