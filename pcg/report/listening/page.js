"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const kinds = { e: "kept exactly", g: "kept by the rule only", c: "kept, not the first candidate", r: "recovered", b: "bonus", p: "target alone" };
const WAVE = 42, LANE = 14; // pixels: waveform above, token timeline below
const ICONS = { play: "M4 2l10 6-10 6z", pause: "M3 2h4v12H3zM9 2h4v12H9z" };
const byId = id => document.getElementById(id);
const main = document.querySelector("main"), tip = byId("tip");
const percent = value => `${(100 * value).toFixed(value < .0995 ? 1 : 0)} %`;
const value = (clip, key) => clip.figures?.[key] ?? null; // a metric's figure of a clip

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter(child => child !== null));
  return made;
}

// What a method's card and a clip say of it.
const facts = parts => parts.map(part => part.replaceAll(" ", "\u00a0")).join(" · ");

function transcript(words) {
  const line = element("p", { className: "words" }), hidden = text => element("span", { className: "unseen" }, text);
  const made = {
    equal: (said, heard) => heard,
    delete: said => element("del", {}, hidden("not heard: "), said),
    insert: (said, heard) => element("ins", {}, hidden("not said: "), heard),
    substitute: (said, heard) => element("mark", {}, `${heard} `, hidden("for "), element("s", {}, said)),
  };
  words.forEach(([operation, said, heard]) => line.append(made[operation](said, heard), " "));
  return line;
}

// Drawing: canvases are drawn when they come near the window and have a width, and again when it or the theme changes.
let colors = {};
const near = new Set();
const watcher = new IntersectionObserver(entries => entries.forEach(({ target, isIntersecting }) => {
  near[isIntersecting ? "add" : "delete"](target);
  if (isIntersecting) draw(target);
}), { rootMargin: "400px" });

const sized = new ResizeObserver(entries => entries.forEach(({ target }) => near.has(target) && draw(target)));

function draw(canvas) {
  const clip = canvas.clip, scale = devicePixelRatio || 1, width = canvas.clientWidth;
  if (!width) return;
  canvas.width = width * scale;
  canvas.height = (WAVE + LANE + 2) * scale;
  const pen = canvas.getContext("2d"), bars = Math.min(clip.peaks.length, Math.floor(width / 3)) || 1;
  pen.scale(scale, scale);
  pen.fillStyle = colors.wave;
  for (let bar = 0; bar < bars; bar++) {
    const part = clip.peaks.slice(Math.floor(bar * clip.peaks.length / bars), Math.ceil((bar + 1) * clip.peaks.length / bars));
    const height = Math.max(1, (WAVE - 4) * Math.max(0, ...part) / clip.loudest);
    pen.fillRect(bar * width / bars, (WAVE - height) / 2, Math.max(1, width / bars - 1), height);
  }
  const step = width / clip.tokens.length;
  for (let i = 0; i < clip.tokens.length; i++) {
    pen.fillStyle = colors[clip.kinds[i]];
    pen.fillRect(i * step, WAVE + 2, step > 3 ? step - .75 : step, LANE);
  }
}

function redraw() {
  document.querySelectorAll(".key i").forEach(swatch => {
    swatch.hidden = false;
    colors[swatch.dataset.kind] = getComputedStyle(swatch).backgroundColor;
    swatch.hidden = swatch.dataset.kind === "wave";
  });
  near.forEach(draw);
}

// Playing: one clip at a time.
let playing = null;

function player(clip) {
  if (clip.audio) return clip.audio;
  const audio = clip.audio = element("audio", { preload: "auto", src: clip.src });
  const show = () => {
    const on = !audio.paused && !audio.ended;
    clip.button.setAttribute("aria-pressed", on);
    clip.button.querySelector("path").setAttribute("d", ICONS[on ? "pause" : "play"]);
    if (on) { playing = clip; follow(); } else if (playing === clip) playing = null;
  };
  ["play", "pause", "ended"].forEach(name => audio.addEventListener(name, show));
  audio.addEventListener("error", () => clip.box.append(element("p", { className: "failed" }, `cannot play ${clip.src}`)), { once: true });
  return audio;
}

function play(clip, second = null) {
  if (playing && playing !== clip) playing.audio.pause();
  const audio = player(clip);
  if (second !== null) audio.currentTime = second;
  return audio.play().catch(() => {}); // a pause before it began; what cannot be loaded is told by its error event
}

const toggle = clip => (playing === clip ? clip.audio.pause() : play(clip));

function follow() {
  const clip = playing;
  if (!clip) return;
  clip.head.style.display = "block";
  clip.head.style.left = `${100 * Math.min(1, clip.audio.currentTime / clip.seconds)}%`;
  requestAnimationFrame(follow);
}

function readout(clip, i) {
  const probability = value => (value === null || value === undefined ? null : value >= .001 || value === 0 ? value.toFixed(3) : value.toExponential(1));
  return [
    ["token id", clip.tokens[i]],
    ["target's probability", probability(clip.target[i])],
    ["draft's probability", clip.kinds[i] === "b" ? "not drafted" : probability(clip.draft[i])],
    ["group size", clip.sizes.length ? `${clip.sizes[i]}` : null],
  ].filter(([, value]) => value !== null);
}

function point(clip, i, beside = null) {
  const count = clip.tokens.length;
  if (!count) return;
  i = clip.at = Math.min(count - 1, Math.max(0, i));
  const kind = clip.kinds[i], title = kind === "g" && clip.sizes.length ? "kept by its group only" : kinds[kind];
  const lines = readout(clip, i), place = `${(i * clip.seconds / count).toFixed(2)} s, token ${i + 1} of ${count}`;
  const box = clip.canvas.getBoundingClientRect(), swatch = element("i");
  swatch.dataset.kind = kind;
  tip.replaceChildren(element("b", {}, swatch, title), place,
    element("dl", {}, ...lines.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))])));
  tip.hidden = false;
  const x = beside ?? box.left + (i + .5) * box.width / count;
  tip.style.left = `${Math.max(8, Math.min(innerWidth - tip.offsetWidth - 8, x + 14))}px`;
  tip.style.top = `${box.bottom + tip.offsetHeight + 14 < innerHeight ? box.bottom + 8 : box.top - tip.offsetHeight - 8}px`;
  Object.assign(clip.mark.style, { display: "block", left: `calc(${100 * i / count}% - 2px)`, width: `calc(${100 / count}% + 4px)` });
  clip.canvas.setAttribute("aria-valuenow", i + 1);
  clip.canvas.setAttribute("aria-valuetext", [title, place, ...lines.map(line => line.join(" "))].join(", "));
}

function leave(clip) {
  tip.hidden = true;
  clip.mark.style.display = "none";
}

function timeline(clip) {
  const canvas = clip.canvas = element("canvas", { tabIndex: 0, clip }), count = clip.tokens.length;
  Object.entries({ role: "slider", "aria-label": `Tokens of ${data.methods[clip.method].name}`, "aria-valuemin": 1, "aria-valuemax": Math.max(1, count),
    "aria-valuenow": 1, "aria-describedby": "tip" }).forEach(([name, value]) => canvas.setAttribute(name, value));
  const from = share => { pick(clip.said, clip.method); play(clip, share * clip.seconds); };
  canvas.addEventListener("pointermove", event => point(clip, Math.floor(event.offsetX / canvas.clientWidth * count), event.clientX));
  canvas.addEventListener("pointerleave", () => leave(clip));
  canvas.addEventListener("blur", () => leave(clip));
  canvas.addEventListener("click", event => from(event.offsetX / canvas.clientWidth));
  canvas.addEventListener("keydown", event => {
    const at = clip.at ?? -1, far = event.shiftKey ? 10 : 1;
    const to = { ArrowRight: at + far, ArrowLeft: at - far, Home: 0, End: count - 1 }[event.key];
    if (to !== undefined) point(clip, to);
    else if (event.key === "Enter") from(count ? Math.max(0, at) / count : 0);
    else if (event.key === "Escape") leave(clip);
    else return;
    event.preventDefault();
  });
  [watcher, sized].forEach(observer => observer.observe(canvas));
  clip.head = element("div", { className: "head" });
  clip.mark = element("div", { className: "at" });
  return element("div", { className: "track" }, canvas, clip.head, clip.mark);
}

function row(said, clip) {
  const { name } = data.methods[clip.method], box = clip.box = element("div", { className: "clip" });
  clip.said = said;
  box.dataset.method = clip.method;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", name);
  const who = element("div", { className: "who" }, element("b", {}, name), clip.method < 9 ? element("kbd", {}, String(clip.method + 1)) : null);
  if (clip.error) { box.append(element("span"), who, element("span", { className: "failed" }, `failed: ${clip.error}`)); return box; }
  const drafted = [...clip.kinds].filter(kind => "egc".includes(kind)).length / (clip.kinds.length || 1);
  who.append(element("small", {}, facts([...clip.facts, ...(drafted ? [`${percent(drafted)} drafted`] : []), `${clip.seconds.toFixed(1)} s`])));
  clip.button = element("button", { type: "button", className: "play", onclick: () => { pick(said, clip.method); toggle(clip); } });
  clip.button.setAttribute("aria-label", `Play ${name}`);
  clip.button.setAttribute("aria-pressed", false);
  clip.button.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS.play}"/></svg>`;
  box.append(clip.button, who, timeline(clip));
  if (clip.words) box.append(transcript(clip.words));
  return box;
}

data.utterances.forEach((said, index) => {
  said.index = index;
  // one scale an utterance, so that loudness can be compared between methods
  const loudest = Math.max(1, ...said.clips.flatMap(clip => clip.peaks ?? []));
  said.clips.forEach(clip => { clip.loudest = loudest; });
  said.sought = [said.text, said.id, said.speaker, ...said.clips.flatMap(clip => (clip.words ?? []).map(([, , heard]) => heard))].join(" ").toLowerCase();
  const title = element("h2", { id: `u${index}` }, said.text);
  said.section = element("section", { tabIndex: -1 }, title, element("p", {}, said.speaker ? `${said.id} · speaker ${said.speaker}` : said.id),
    ...said.clips.map(clip => row(said, clip)));
  said.section.setAttribute("aria-labelledby", title.id);
  said.section.dataset.utterance = said.id;
});

let current = null, method = 0;
const shownMethods = () => new Set([...document.querySelectorAll("#methods input:checked")].map(box => Number(box.value)));
const picked = () => current && (current.clips.find(clip => clip.method === method && !clip.error && !clip.box.hidden) ??
  current.clips.find(clip => !clip.error && !clip.box.hidden));

function pick(said, which = method) {
  document.querySelectorAll(".current").forEach(item => item.classList.remove("current"));
  [current, method] = [said, which];
  said.section.classList.add("current");
  picked()?.box.classList.add("current");
}

function step(by) {
  const shown = [...main.children].filter(section => !section.hidden), at = shown.indexOf(current?.section);
  const next = shown[at < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, at + by))];
  if (!next) return;
  pick(data.utterances.find(said => said.section === next));
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "start" });
}

function choose(which) {
  if (!current) step(0);
  if (!current?.clips.some(clip => clip.method === which && !clip.error && !clip.box.hidden)) return;
  const before = playing && playing.said === current ? playing : null;
  pick(current, which);
  const now = picked();
  if (before && before !== now) play(now, before.audio.currentTime / before.seconds * now.seconds);
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  const typing = event.target.matches("input[type=search], select");
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing || (event.key === " " && event.target.matches("button, input"))) return;
  if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  else if (event.key === " ") { if (!current) step(0); const clip = picked(); if (clip) toggle(clip); }
  else if (event.key === "/") byId("find").focus();
  else if (event.key === "?") byId("keys").showModal();
  else if (/^[1-9]$/.test(event.key)) choose(Number(event.key) - 1);
  else return;
  event.preventDefault();
});

// Filters and order.
function update() {
  const methods = shownMethods(), by = byId("by").value, [sort, key] = byId("sort").value.split(":");
  const [speaker, errors, sought] = ["speaker", "errors", "find"].map(id => byId(id).value);
  byId("by").parentElement.hidden = sort !== "high" && sort !== "low";
  const order = data.utterances.map(said => {
    said.clips.forEach(clip => { clip.box.hidden = !methods.has(clip.method); });
    const known = said.clips.filter(clip => value(clip, key) !== null);
    const rates = known.filter(clip => methods.has(clip.method)).map(clip => value(clip, key));
    const chosen = by === "" ? rates : known.filter(clip => clip.method === Number(by)).map(clip => value(clip, key));
    const mean = chosen.length ? chosen.reduce((sum, rate) => sum + rate, 0) / chosen.length : null;
    const heard = said.clips.filter(clip => clip.words && methods.has(clip.method));
    const wrong = heard.some(clip => clip.words.some(([operation]) => operation !== "equal"));
    said.section.hidden = (speaker !== "" && said.speaker !== speaker) || !said.sought.includes(sought.trim().toLowerCase()) ||
      (errors === "some" && !wrong) || (errors === "none" && (wrong || !heard.length));
    return { said, value: sort === "spread" && rates.length ? Math.max(...rates) - Math.min(...rates) : mean };
  });
  if (sort === "speaker") order.sort((a, b) => a.said.speaker.localeCompare(b.said.speaker) || a.said.index - b.said.index);
  else if (sort) order.sort((a, b) => (a.value === null) - (b.value === null) || (sort === "low" ? 1 : -1) * (a.value - b.value) || a.said.index - b.said.index);
  if (order.some(({ said }, place) => main.children[place] !== said.section)) main.append(...order.map(({ said }) => said.section));
  const shown = order.filter(({ said }) => !said.section.hidden).length;
  byId("nothing").hidden = shown > 0;
  byId("count").textContent = `${shown} of ${data.utterances.length} utterances`;
  if (playing && (playing.box.hidden || playing.said.section.hidden)) playing.audio.pause();
}

function start() {
  document.title = `${data.study}: listen`;
  document.querySelector("h1").textContent = data.study;
  byId("facts").textContent = `Listening page: ${data.total > data.utterances.length ? `the first ${data.utterances.length} of ` : ""}` +
    `${data.total} utterances, ${data.methods.length} method${data.methods.length === 1 ? "" : "s"}`;
  data.methods.forEach((each, index) => {
    const box = element("input", { type: "checkbox", value: index, checked: true });
    byId("methods").append(element("label", { className: "method" }, box, element("b", {}, each.name),
      index < 9 ? element("kbd", {}, String(index + 1)) : element("span"), element("small", {}, facts(each.facts))));
    byId("by").append(element("option", { value: index }, each.name));
  });
  [...new Set(data.utterances.map(said => said.speaker).filter(Boolean))].sort().forEach(
    speaker => byId("speaker").append(element("option", { value: speaker }, speaker)));
  data.figures.forEach(({ key, name }) => [["high", `highest ${name} first`], ["low", `lowest ${name} first`],
    ["spread", `${name} differs most between methods`]].forEach(
    ([way, label]) => byId("sort").append(element("option", { value: `${way}:${key}` }, label))));
  if (!data.utterances.some(said => said.clips.some(clip => clip.words))) [...byId("errors").options].forEach(option => {
    option.disabled = option.value !== "";
  });
  const form = document.querySelector("form");
  [form, byId("methods")].forEach(part => ["input", "change"].forEach(name => part.addEventListener(name, update)));
  form.addEventListener("submit", event => event.preventDefault());
  byId("clear").addEventListener("click", () => { form.reset(); document.querySelectorAll("#methods input").forEach(box => { box.checked = true; }); update(); });
  byId("help").addEventListener("click", () => byId("keys").showModal());
  theme(localStorage.getItem("pcg-theme"));
  byId("theme").addEventListener("click", () => theme(dark() ? "light" : "dark"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(localStorage.getItem("pcg-theme")));
  update();
}

const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function theme(name) {
  if (name) { document.documentElement.dataset.theme = name; localStorage.setItem("pcg-theme", name); }
  byId("theme").textContent = dark() ? "Light" : "Dark";
  redraw();
}

start();
