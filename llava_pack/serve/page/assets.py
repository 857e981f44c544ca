"""What the browser gets beyond Gradio's own: the style, and a few lines of script."""

import re
from collections.abc import Mapping

from llava_pack.engine.limits import SHRUNK_SIDE, Limits


def _filled(script: str, numbers: Mapping[str, int]) -> str:
    """Return a script with numbers for the names in capitals; its braces are JavaScript's."""
    return re.sub(
        r"\b[A-Z]+(?:_[A-Z]+)*\b", lambda name: str(numbers.get(name[0], name[0])), script
    )


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
_READING = """() => {
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
# A picture over the limits is made smaller before it is sent: however it comes in, Gradio hears of
# the smaller one only. What the browser cannot read goes as it is, and the server says why not.
# Text that comes with a pasted picture is the browser's to insert, so that one is left alone.
_SHRINKING = """() => {
    const most = {pixels: MOST_PIXELS, side: MOST_SIDE, bytes: MOST_BYTES}, side = SIDE;
    const encoded = (canvas, type) => new Promise((done) => canvas.toBlob(done, type, 0.95));
    const smaller = async (file) => {
        let picture;
        try { picture = await createImageBitmap(file); } catch { return file; }
        const {width, height} = picture, longer = Math.max(width, height);
        const fits = width * height <= most.pixels && longer <= most.side;
        if (fits && file.size <= most.bytes) { picture.close(); return file; }
        const canvas = document.createElement("canvas"), scale = Math.min(1, side / longer);
        canvas.width = Math.max(1, Math.round(width * scale));
        canvas.height = Math.max(1, Math.round(height * scale));
        const context = canvas.getContext("2d");
        context.imageSmoothingQuality = "high";
        context.drawImage(picture, 0, 0, canvas.width, canvas.height);
        picture.close();
        let blob = file.type === "image/jpeg" ? null : await encoded(canvas, "image/png");
        if (blob === null || blob.size > most.bytes) {
            context.globalCompositeOperation = "destination-over";
            context.fillStyle = "white";
            context.fillRect(0, 0, canvas.width, canvas.height);
            blob = await encoded(canvas, "image/jpeg");
        }
        if (blob === null) return file;
        const end = blob.type === "image/png" ? ".png" : ".jpg";
        return new File([blob], file.name.replace(/[.][^.]*$/, "") + end, {type: blob.type});
    };
    const ours = new WeakSet();
    const given = (event) => event.dataTransfer ?? event.clipboardData ?? event.target;
    const once_more = (type, target, data) => {
        const how = {bubbles: true, cancelable: true, composed: true};
        if (type === "drop") return new DragEvent(type, {...how, dataTransfer: data});
        if (type === "paste") return new ClipboardEvent(type, {...how, clipboardData: data});
        target.files = data.files;
        return new Event(type, how);
    };
    const take = async (event) => {
        const files = [...(given(event)?.files ?? [])], target = event.target;
        const text = event.clipboardData?.types.includes("text/plain");
        if (ours.has(event) || text || files.length === 0) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        const data = new DataTransfer();
        for (const file of files) data.items.add(await smaller(file));
        const next = once_more(event.type, target, data);
        ours.add(next);
        target.dispatchEvent(next);
    };
    for (const type of ["change", "drop", "paste"]) window.addEventListener(type, take, true);
}"""
_NUMBERS = {
    "MOST_PIXELS": Limits().pixels,
    "MOST_SIDE": Limits().side_pixels,
    "MOST_BYTES": Limits().size_bytes,
    "SIDE": SHRUNK_SIDE,
}
LOAD_SCRIPT = f"() => {{ ({_READING})(); ({_filled(_SHRINKING, _NUMBERS)})(); }}"
# Gradio asks the server to end a stream and goes on: what is still on its way is drawn after the
# chat was cleared, and brings it back. So clearing is noted, and the end of the stream, which comes
# last, clears again.
BEGIN_SCRIPT = "(...given) => { window.chatWasCleared = false; return given; }"
CLEAR_SCRIPT = "() => { window.chatWasCleared = true; return []; }"
END_SCRIPT = "() => window.chatWasCleared ? [[]] : undefined"  # undefined leaves the chat as it is
