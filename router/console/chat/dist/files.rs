// Written by build.mjs.
&[
    ("chat-70385e9ace5a.js", "text/javascript; charset=utf-8", include_bytes!("chat-70385e9ace5a.js")),
    ("icon-dd9466b846e8.svg", "image/svg+xml", include_bytes!("icon-dd9466b846e8.svg")),
    ("style-074a9baf039a.css", "text/css; charset=utf-8", include_bytes!("style-074a9baf039a.css")),
]
