// Takes pictures in. One that the server would refuse is made smaller, or becomes a PNG or JPEG;
// every other one goes as it is, to the bit. What the browser cannot read is the server's to judge.

import {h} from "./dom.js";
import {say, sizeText} from "./words.js";

const QUALITY = 0.95;

/** What cannot be taken, in the page's words. */
export class PictureError extends Error {}

/** Return a picture as it will be sent: its bytes, and what people see of it. */
export async function taken(file, limits) {
  const suffix = (/\.[^.]*$/.exec(file.name)?.[0] ?? "").toLowerCase();
  const type = limits.formats[suffix]
    ?? Object.values(limits.formats).find((known) => known === file.type);
  const image = await decoded(file);
  if (image === null) {
    if (type === undefined) throw new PictureError(say("notPicture", {name: file.name}));
    return {blob: file, name: file.name, type, width: 0, height: 0, note: ""};
  }
  try {
    const {width, height} = image;
    const fits = width * height <= limits.pixels && Math.max(width, height) <= limits.side_pixels
      && file.size <= limits.size_bytes;
    if (fits && type !== undefined) return {blob: file, name: file.name, type, width, height, note: ""};
    return await redrawn(file, image, fits, limits);
  } finally {
    image.close?.();
  }
}

/** Return what the browser reads of a file, turned as its camera was held; null where it cannot. */
async function decoded(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    return file.type === "image/svg+xml" ? drawing(file) : null;
  }
}

/** Return a drawing, which has no size of its own for createImageBitmap. It loads nothing. */
async function drawing(file) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return image.width && image.height ? image : null;
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function redrawn(file, image, fits, limits) {
  const scale = fits ? 1 : Math.min(1, limits.shrunk_side / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  let blob = file.type === "image/jpeg" ? null : await encoded(canvas, "image/png");
  if (blob === null || blob.size > limits.size_bytes) {
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "white";  // a JPEG has no transparency
    context.fillRect(0, 0, canvas.width, canvas.height);
    blob = await encoded(canvas, "image/jpeg");
  }
  if (blob === null) throw new PictureError(say("notPicture", {name: file.name}));
  const note = fits ? say("converted", {kind: file.type || "?"})
    : say("shrunk", {size: `${image.width}×${image.height}, ${sizeText(file.size)}`});
  const end = blob.type === "image/png" ? ".png" : ".jpg";
  const name = file.name.replace(/\.[^.]*$/, "") + end;
  return {blob, name, type: blob.type, width: canvas.width, height: canvas.height, note};
}

const encoded = (canvas, type) => new Promise((done) => canvas.toBlob(done, type, QUALITY));

/** Return a picture as the API takes it. */
export async function dataUrl(blob, type) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return `data:${type};base64,${btoa(text)}`;
}

/** Return a picture's thumbnail with its name and size; a button removes it, where one is given. */
export function thumbnail(picture, blob, remove = null) {
  const size = [picture.width ? `${picture.width}×${picture.height}` : "", sizeText(picture.size), picture.note];
  return h("figure", {class: "thumbnail", title: picture.name},
    shown(picture, blob),
    h("figcaption", {},
      h("bdi", {class: "name"}, picture.name),
      h("span", {class: "size"}, size.filter(Boolean).join(" · "))),
    remove);
}

function shown(picture, blob) {
  const kind = (/\.([^.]{1,5})$/.exec(picture.name)?.[1] ?? "?").toUpperCase();
  const instead = () => h("span", {class: "no-preview", title: say("noPreview"), role: "img",
    "aria-label": say("picture", {name: picture.name})}, kind);
  if (!blob || !picture.width) return instead();
  const url = URL.createObjectURL(blob);
  return h("img", {src: url, alt: say("picture", {name: picture.name}),
    onload: () => URL.revokeObjectURL(url),
    onerror: (event) => { URL.revokeObjectURL(url); event.target.replaceWith(instead()); }});
}
