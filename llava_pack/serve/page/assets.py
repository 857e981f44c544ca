"""What the browser gets beyond Gradio's own: the style, and a few lines of script."""

CSS = """
footer { display: none !important; }
#head { flex-wrap: nowrap; align-items: center; }
#title h1 { margin: 0; font-size: 1.3rem; }
#theme { font-size: 1.1rem; }
#status p, #speed p { margin: 0; opacity: .8; font-size: .9rem; }
#speed:not(:has(p)) { display: none; }
/* The conversation takes what the rest leaves of the window. */
.gradio-container .fillable { padding: .75rem clamp(.5rem, 3vw, 2rem) !important; }
.column:has(> #chat) { height: calc(100dvh - 1.5rem); gap: .6rem; flex-wrap: nowrap; }
.column:has(> #chat) > * { flex-shrink: 0; }
#chat { flex: 1 1 0 !important; height: 0 !important; }
#chat .message img { max-height: 14rem; width: auto; }
/* The button beside the download would send the conversation to a public site. */
#chat a.download-link ~ button, #chat button[aria-label="Share"] { display: none !important; }
"""
# The choice lasts as long as the tab; a new one follows the browser's preference again.
THEME_SCRIPT = "() => { document.body.classList.toggle('dark'); }"
# Screen readers and the choice of Chinese glyphs go by the language; Gradio's page says English.
# What is copied from a conversation is what was written, without the joiners that disarm it.
LOAD_SCRIPT = """() => {
    document.documentElement.lang = navigator.language;
    const plain = (text) => text.replaceAll("\\u2060", "");
    const board = navigator.clipboard;
    if (board) {
        const write = board.writeText.bind(board);
        board.writeText = (text) => write(plain(text));
    }
    document.addEventListener("copy", (event) => {
        const chosen = String(getSelection());
        if (!chosen.includes("\\u2060")) return;
        event.clipboardData.setData("text/plain", plain(chosen));
        event.preventDefault();
    });
}"""
# Gradio asks the server to end a stream and goes on: what is still on its way is drawn after the
# chat was cleared, and brings it back. So clearing is noted, and the end of the stream, which comes
# last, clears again.
BEGIN_SCRIPT = "(...given) => { window.chatWasCleared = false; return given; }"
CLEAR_SCRIPT = "() => { window.chatWasCleared = true; return []; }"
END_SCRIPT = "() => window.chatWasCleared ? [[]] : undefined"  # undefined leaves the chat as it is
