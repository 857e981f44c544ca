// Draws Markdown as elements. What a picture told a model to write stays text: there is no HTML, no
// link that leads anywhere, no picture that loads. Whatever is not understood is shown as written.

import {button, copyText, h} from "./dom.js";
import {say} from "./words.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const SPLIT = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 12;

/** Return the elements that a text in Markdown is drawn as. */
export function markdown(text) {
  const drawn = document.createDocumentFragment();
  drawn.append(...blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0));
  return drawn;
}

function blocks(lines, depth) {
  if (depth > DEEPEST) return [h("p", {}, lines.join("\n"))];
  const drawn = [];
  let at = 0;
  while (at < lines.length) {
    const reader = [fence, heading, rule, quote, list, table, paragraph]
      .find((each) => each.begins(lines, at));
    if (reader === undefined) {
      at += 1;  // an empty line
      continue;
    }
    const [element, next] = reader.read(lines, at, depth);
    drawn.push(element);
    at = next;
  }
  return drawn;
}

/** Return the number of the first line from `at` on for which `ends` holds. */
function until(lines, at, ends) {
  let end = at;
  while (end < lines.length && !ends(lines[end], end)) end += 1;
  return end;
}

const fence = {
  begins: (lines, at) => FENCE.test(lines[at]),
  read(lines, at) {
    const [, mark, language] = FENCE.exec(lines[at]);
    const closing = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
    const end = until(lines, at + 1, (line) => closing.test(line));
    return [codeBlock(lines.slice(at + 1, end).join("\n"), language), end + 1];
  },
};

function codeBlock(code, language) {
  const copy = button(say("copyCode"), async () => {
    copy.textContent = say(await copyText(code) ? "copied" : "copyFailed");
    setTimeout(() => { copy.textContent = say("copyCode"); }, 2000);
  });
  return h("div", {class: "code"},
    h("div", {class: "code-head"}, h("span", {}, language), copy),
    h("pre", {tabindex: "0"}, h("code", {}, code)));
}

const heading = {
  begins: (lines, at) => HEADING.test(lines[at]),
  read(lines, at) {
    const [, marks, text] = HEADING.exec(lines[at]);
    // Below the page's own headings, so that the outline that a screen reader tells stays right.
    return [h(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(text)), at + 1];
  },
};

const rule = {
  begins: (lines, at) => RULE.test(lines[at]),
  read: (lines, at) => [h("hr"), at + 1],
};

const quote = {
  begins: (lines, at) => QUOTE.test(lines[at]),
  read(lines, at, depth) {
    const end = until(lines, at, (line) => !QUOTE.test(line));
    const inner = lines.slice(at, end).map((line) => QUOTE.exec(line)[1]);
    return [h("blockquote", {}, ...blocks(inner, depth + 1)), end];
  },
};

const list = {
  begins: (lines, at) => ITEM.test(lines[at]),
  read(lines, at, depth) {
    const [, indent, number] = ITEM.exec(lines[at]);
    const element = number === undefined ? h("ul") : h("ol", {start: number});
    let next = at;
    while (next < lines.length) {
      const found = ITEM.exec(lines[next]);
      if (!found || found[1].length > indent.length + 1 || (found[2] === undefined) !== (number === undefined)) break;
      if (found[1].length < indent.length) break;
      const width = lines[next].length - found[3].length;
      const end = until(lines, next + 1, (line, index) => endsItem(lines, line, index, indent));
      const rest = lines.slice(next + 1, end).map((line) => line.replace(new RegExp(`^\\s{0,${width}}`), ""));
      element.append(item([found[3], ...rest], depth));
      next = end;
    }
    return [element, next];
  },
};

function endsItem(lines, line, index, indent) {
  if (line.trim() === "") return !/^\s/.test(lines[index + 1] ?? "") && !ITEM.test(lines[index + 1] ?? "");
  const found = ITEM.exec(line);
  if (found) return found[1].length <= indent.length + 1;
  return lines[index - 1].trim() === "" && !/^\s/.test(line);
}

function item(lines, depth) {
  const drawn = blocks(lines, depth + 1);
  const tight = !lines.some((line, index) => line.trim() === "" && index < lines.length - 1);
  if (tight && drawn[0]?.localName === "p") drawn.splice(0, 1, ...drawn[0].childNodes);
  return h("li", {}, ...drawn);
}

const table = {
  begins: (lines, at) => lines[at].includes("|") && SPLIT.test(lines[at + 1] ?? "") && lines[at + 1].includes("-"),
  read(lines, at) {
    const end = until(lines, at + 2, (line) => !line.includes("|"));
    const row = (line, tag) => h("tr", {}, ...cells(line).map((cell) => h(tag, {}, ...inline(cell))));
    const body = lines.slice(at + 2, end).map((line) => row(line, "td"));
    const drawn = h("table", {}, h("thead", {}, row(lines[at], "th")), h("tbody", {}, ...body));
    return [h("div", {class: "wide", tabindex: "0"}, drawn), end];
  },
};

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

const paragraph = {
  begins: (lines, at) => lines[at].trim() !== "",
  read(lines, at) {
    const end = until(lines, at, (line, index) => line.trim() === "" || (index > at
      && [fence, heading, rule, quote, list, table].some((each) => each.begins(lines, index))));
    return [h("p", {}, ...inline(lines.slice(at, end).join("\n"))), end];
  },
};

const INLINE = /(?<!`)(`+)(?!`)([\s\S]*?[^`])\1(?!`)|(\*\*|__)(?=\S)([\s\S]*?\S)\3|(~~)(?=\S)([\s\S]*?\S)~~|(?<![\w*_])([*_])(?=[^\s*_])([\s\S]*?[^\s*_])\7(?![\w*_])|\\([!-/:-@[-`{-~])/g;

/** Return texts and elements for code, bold, struck and slanted text. A link stays what it is. */
function inline(text) {
  const drawn = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, ticks, code, bold, strong, struck, gone, slant, em, escaped] = found;
    drawn.push(text.slice(at, found.index));
    if (ticks) drawn.push(h("code", {}, code.replace(/^ (.*) $/s, "$1")));
    else if (bold) drawn.push(h("strong", {}, ...inline(strong)));
    else if (struck) drawn.push(h("s", {}, ...inline(gone)));
    else if (slant) drawn.push(h("em", {}, ...inline(em)));
    else drawn.push(escaped);
    at = found.index + whole.length;
  }
  drawn.push(text.slice(at));
  return drawn.filter((part) => part !== "");
}
