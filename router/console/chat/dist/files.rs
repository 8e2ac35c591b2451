// Written by build.mjs.
&[
    ("chat-ebb1de491c2c.js", "text/javascript; charset=utf-8", include_bytes!("chat-ebb1de491c2c.js")),
    ("icon-dd9466b846e8.svg", "image/svg+xml", include_bytes!("icon-dd9466b846e8.svg")),
    ("style-a1e3a23a74c0.css", "text/css; charset=utf-8", include_bytes!("style-a1e3a23a74c0.css")),
]
