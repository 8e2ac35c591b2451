// Written by build.mjs.
&[
    ("chat-bacc4e160b4c.js", "text/javascript; charset=utf-8", include_bytes!("chat-bacc4e160b4c.js")),
    ("icon-dd9466b846e8.svg", "image/svg+xml", include_bytes!("icon-dd9466b846e8.svg")),
    ("style-2712bee91632.css", "text/css; charset=utf-8", include_bytes!("style-2712bee91632.css")),
]
