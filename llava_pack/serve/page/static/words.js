// What the page says, in English and Chinese; the browser's language decides. The only such table.

export const WORDS = {
  skip: ["Skip to the question", "跳到输入框"],
  // the conversations
  conversations: ["Conversations", "对话"],
  new: ["New conversation", "新对话"],
  untitled: ["New conversation", "新对话"],
  title: ["Title of this conversation", "对话标题"],
  menu: ["More for this conversation", "更多操作"],
  exportMarkdown: ["Export as Markdown", "导出为 Markdown"],
  exportJson: ["Export as JSON", "导出为 JSON"],
  importJson: ["Import a conversation", "导入对话"],
  imported: ["Imported: {title}", "已导入：{title}"],
  notImported: [
    "This file is not a conversation that was exported here.", "该文件不是从本页面导出的对话。"],
  remove: ["Delete", "删除"],
  removeNamed: ["Delete: {title}", "删除：{title}"],
  removed: ["Deleted: {title}", "已删除：{title}"],
  undo: ["Undo", "撤销"],
  close: ["Close", "关闭"],
  // an empty conversation
  emptyHead: ["Ask about a picture", "就图片提问"],
  emptyHow: [
    "Add a picture with the button below, paste it, or drop it anywhere on this page. Then ask. " +
    "Conversations stay in this browser.",
    "用下方按钮添加图片，或粘贴，或拖放到页面任意位置，然后提问。对话只保存在此浏览器中。"],
  examples: ["Or try an example", "或试试示例"],
  circle: ["What is in the picture?", "图片里有什么？"],
  two: ["How many things are there?", "图片里有几个物体？"],
  square: ["What colour is it?", "它是什么颜色？"],
  // the box
  box: ["Your question", "您的问题"],
  ask: ["Ask about a picture…", "就图片提问……"],
  keys: ["Enter sends, Shift+Enter starts a new line", "Enter 发送，Shift+Enter 换行"],
  send: ["Send", "发送"],
  stop: ["Stop the answer", "停止回答"],
  add: ["Add pictures", "添加图片"],
  camera: ["Take a picture", "拍照"],
  drop: ["Drop pictures here", "拖放图片到此处"],
  picture: ["Picture: {name}", "图片：{name}"],
  removePicture: ["Remove {name}", "移除 {name}"],
  shrunk: ["made smaller from {size}", "已缩小，原为 {size}"],
  converted: ["converted from {kind}", "由 {kind} 转换"],
  noPreview: ["This browser cannot show this kind; the server reads it.", "浏览器无法显示此格式，服务器可以读取。"],
  // messages
  you: ["You", "您"],
  model: ["Model", "模型"],
  copy: ["Copy", "复制"],
  copied: ["Copied", "已复制"],
  copyFailed: ["The browser does not allow copying here.", "浏览器不允许在此复制。"],
  copyCode: ["Copy code", "复制代码"],
  edit: ["Edit", "编辑"],
  editing: ["Edited question", "编辑后的问题"],
  save: ["Send again", "重新发送"],
  cancel: ["Cancel", "取消"],
  again: ["New answer", "重新回答"],
  goOn: ["Continue", "继续"],
  replaced: ["Later messages were replaced.", "其后的消息已被替换。"],
  thinking: ["The model is reading…", "模型正在读取……"],
  answering: ["The model is answering", "模型正在回答"],
  answered: ["The answer is complete", "回答完毕"],
  cut: ["Cut off at the maximum length.", "已达到最大长度，回答被截断。"],
  stopped: ["You stopped this answer.", "您已停止此回答。"],
  broken: ["This answer broke off.", "回答中断，内容不完整。"],
  lost: ["This answer broke off: the connection was lost.", "连接中断，此回答不完整。"],
  nothing: ["(no answer)", "（没有回答）"],
  blank: ["Picture {number} has only one colour, {colour}: the model sees nothing.",
    "图片 {number} 只有一种颜色（{colour}）：模型看到的是空白图片。"],
  speed: ["{tokens} tokens · {rate} tokens/s · first after {first} s",
    "{tokens} token · {rate} token/秒 · 首 token 延迟 {first} 秒"],
  // the server
  on: ["{precision} on {device}", "{precision}，{device}"],
  queue: ["{running} running, {waiting} waiting", "{running} 个运行中，{waiting} 个排队"],
  unreachable: ["The server does not answer. Is the tunnel open? Trying again; nothing is lost.",
    "服务器没有应答。隧道是否已打开？正在重试，内容不会丢失。"],
  context: ["{used} of {all} tokens", "{used} / {all} token"],
  contextLabel: ["How full the model's context is", "模型上下文占用"],
  loggedOut: ["The server was restarted, or the login is over. What you wrote is kept.",
    "服务器已重启，或登录已过期。您输入的内容已保存。"],
  login: ["Log in again", "重新登录"],
  notKept: ["This browser keeps nothing for this page: conversations are gone with this tab.",
    "此浏览器不为本页面保存数据：关闭标签页后对话将丢失。"],
  full: ["The browser's storage is full; this is not kept. Delete old conversations.",
    "浏览器存储空间已满，内容未保存。请删除旧对话。"],
  notStored: ["The browser could not keep this. Export the conversation, then reload the page.",
    "浏览器未能保存此内容。请先导出对话，再刷新页面。"],
  // settings
  settings: ["Settings", "设置"],
  system: ["System prompt of this conversation", "此对话的系统提示词"],
  temperature: ["Temperature: 0 always picks the most likely token", "温度：0 表示始终选择概率最高的 token"],
  top_p: ["Top p: probability mass of the tokens to sample from", "Top p：采样时保留的累积概率"],
  max_tokens: ["Maximum answer length, in tokens", "回答的最大长度（token 数）"],
  seed: ["Seed: the same one gives the same answer; empty draws one", "随机种子：相同种子得到相同回答，留空则随机"],
  theme: ["Colours", "配色"],
  themeSystem: ["As the system", "跟随系统"],
  themeLight: ["Light", "浅色"],
  themeDark: ["Dark", "深色"],
  defaults: ["Restore the defaults", "恢复默认值"],
  done: ["Done", "完成"],
  // the API
  api: ["API", "API"],
  apiHead: ["Use it from a program", "在程序中使用"],
  apiHow: ["Every OpenAI client can use this server.", "任何 OpenAI 客户端都可以使用本服务器。"],
  baseUrl: ["Base URL", "Base URL"],
  key: ["API key", "API 密钥"],
  keyHow: [
    "The token that “llava-pack serve” printed, or a key of your own: on the server, " +
    "“llava-pack keys add NAME”. This page does not know it: the browser keeps a cookie instead.",
    "即 “llava-pack serve” 显示的令牌，或在服务器上用 “llava-pack keys add NAME” 创建的密钥。" +
    "本页面不保存密钥，浏览器只保存 cookie。"],
  curl: ["With curl", "使用 curl"],
  // what goes wrong; the server's own words follow
  tooMany: ["At most {count} pictures fit into a conversation.", "一个对话最多 {count} 张图片。"],
  tooLarge: ["The pictures of this conversation are too large together; start a new one.",
    "此对话中的图片总量过大，请新建对话。"],
  notPicture: ["{name} is not a picture that the browser or the server can read.",
    "{name} 不是浏览器或服务器能读取的图片。"],
  pictureNotKept: ["The browser could not keep {name}; the picture was not added.",
    "浏览器未能保存 {name}，图片没有添加。"],
  noModel: ["No model is ready yet.", "模型尚未就绪。"],
};

export const ERRORS = {
  body_too_large: ["The conversation is too large; start a new one.", "对话过大，请新建对话。"],
  context_length_exceeded: [
    "The conversation is longer than the model's context; start a new one, or ask for less.",
    "对话超过模型的上下文长度，请新建对话或缩短内容。"],
  expired_api_key: ["Your key has expired.", "您的密钥已过期。"],
  internal_error: ["The server failed.", "服务器内部错误。"],
  invalid_api_key: ["You are not logged in.", "您尚未登录。"],
  invalid_json: ["The server did not understand the request.", "服务器无法理解该请求。"],
  invalid_value: ["The server does not take this.", "服务器不接受此内容。"],
  method_not_allowed: ["The server does not do this.", "服务器不支持此操作。"],
  model_not_found: ["This model is no longer served; choose another.", "该模型已停止服务，请选择其他模型。"],
  network: ["The connection to the server was lost. Is the tunnel open?", "与服务器的连接已断开。隧道是否已打开？"],
  not_found: ["The server does not have this.", "服务器没有此内容。"],
  not_ready: ["The model is not ready; try again in a moment.", "模型尚未就绪，请稍后重试。"],
  out_of_memory: ["The server's memory is used up; try again, or send smaller pictures.",
    "服务器内存不足，请重试或使用更小的图片。"],
  overloaded: ["The server is busy; try again in a moment.", "服务器繁忙，请稍后重试。"],
  picture_lost: ["This browser no longer has a picture of this conversation; start a new one.",
    "此浏览器中已没有该对话的图片，请新建对话。"],
  rate_limit_exceeded: ["You have asked as much as your key may for now.", "您的密钥已达到使用上限，请稍后再试。"],
  token_of_another_start: ["This token is of an earlier start of the server.", "该令牌属于服务器的前一次启动。"],
  wrong_host: ["The server does not accept this address.", "服务器不接受此地址。"],
  wrong_origin: ["The server refuses requests from this address.", "服务器拒绝来自此地址的请求。"],
  wrong_scope: ["Your key may not do this.", "您的密钥无此权限。"],
};

const CHINESE = navigator.language.toLowerCase().startsWith("zh");
export const LANGUAGE = CHINESE ? "zh" : "en";

/** Return what a row of the table says, with values for the names in braces. */
export function say(name, values = {}) {
  return filled(WORDS[name], values);
}

/** Return what is said of an error: in the page's language, and what the server said of it. */
export function sayError(error) {
  const row = ERRORS[error.code] ?? ERRORS[error.status >= 500 ? "internal_error" : "invalid_value"];
  const detail = error.message && error.code !== "network" ? ` ${error.message}` : "";
  return filled(row, {}) + detail;
}

function filled(row, values) {
  return row[CHINESE ? 1 : 0].replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

const UNITS = ["B", "kB", "MB", "GB"];

/** Return a size as people read it: 1234567 is "1.2 MB". */
export function sizeText(bytes) {
  const power = Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  const value = bytes / 1000 ** power;
  return `${power && value < 10 ? value.toFixed(1) : Math.round(value)} ${UNITS[power]}`;
}

/** Return a count as the language writes it. */
export const countText = (count) => count.toLocaleString(LANGUAGE);
