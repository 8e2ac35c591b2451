// Written by build.mjs.
&[
    ("chat-c8d50c5cf866.js", "text/javascript; charset=utf-8", include_bytes!("chat-c8d50c5cf866.js")),
    ("icon-dd9466b846e8.svg", "image/svg+xml", include_bytes!("icon-dd9466b846e8.svg")),
    ("style-a1e3a23a74c0.css", "text/css; charset=utf-8", include_bytes!("style-a1e3a23a74c0.css")),
]
