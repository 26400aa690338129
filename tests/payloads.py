"""Texts that run a script, or ask a foreign server, where they reach a page unescaped."""

SET = "window.pwned=1"
PAYLOADS = [
    f"<script>{SET}</script>", f"<img src=x onerror={SET}>", f"</script><script>{SET}</script>",
    f"\"'><svg onload={SET}>",
    f"</style><img src=x onerror={SET}>", f'<a href="javascript:{SET}">click</a>',
    f"<!--<script>{SET}</script>",
    f"<iframe srcdoc='<script>parent.{SET}</script>'></iframe>",
    "<img src=https://example.com/x.png>",
    f"`<b onclick={SET}>` **<i onmouseover={SET}>**", "<base href=https://example.com/>",
    "\u2028\u202e]]>{{7*7}}${7*7}",
    f"<details open ontoggle={SET}>x</details>", f"<video><source onerror={SET}></video>",
    f"<audio src=x onerror={SET}>", f"<input autofocus onfocus={SET}>", f"<select autofocus onfocus={SET}></select>",
    f"<textarea autofocus onfocus={SET}></textarea>", f"<body onload={SET}>", f"<marquee onstart={SET}>x</marquee>",
    f"<svg><animate onbegin={SET} attributeName=x dur=1s>", f"<svg><script>{SET}</script></svg>",
    f"<math><mtext></p><img src=x onerror={SET}></math>", f"</textarea><img src=x onerror={SET}>",
    f"</title><img src=x onerror={SET}>", f"\"><img src=x onerror={SET}>", f"' onerror={SET} src=x x='",
    f"\" autofocus onfocus={SET} x=\"", f"javascript:{SET}", f"<object data='javascript:{SET}'></object>",
    f"<embed src='javascript:{SET}'>", f"<link rel=stylesheet href=https://example.com/x.css onerror={SET}>",
    f"<style>@import 'https://example.com/x.css';</style><img src=x onerror={SET}>",
    f"<form action='javascript:{SET}'><button autofocus onfocus={SET}>x</button></form>",
    f"<div style='animation:x 1s' onanimationstart={SET}>x</div>",
    f"<noscript><p title=\"</noscript><img src=x onerror={SET}>\">",
    f"![x](javascript:{SET}) [y](javascript:{SET})", f"$$\\href{{javascript:{SET}}}{{x}}$$",
    f"&lt;img src=x onerror={SET}&gt;",
    f"<template><img src=x onerror={SET}></template><img src=x onerror={SET}>",
]
