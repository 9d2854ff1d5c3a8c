"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const place = `pcg-blind-${data.test}`; // of the ratings, in the browser's storage
const clips = [...document.querySelectorAll(".clip")], choices = [...document.querySelectorAll("[data-choice]")];

function shuffled(count) {
  const order = [...Array(count).keys()];
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

// A listener has an order of pairs of their own, and of each pair a side for the first clip. All of it outlives the page.
function begun() {
  try {
    const kept = JSON.parse(localStorage.getItem(place));
    if (kept && kept.order.length === data.trials.length) return kept;
  } catch { /* no storage, or not what this page wrote */ }
  return { session: crypto.randomUUID?.() ?? String(Math.random()).slice(2), listener: "", at: 0, ratings: {},
    order: shuffled(data.trials.length), turned: data.trials.map(() => Math.random() < .5) };
}

const state = begun();
let sound = null, side = null, heard = [0, 0], since = 0;

function keep() {
  try { localStorage.setItem(place, JSON.stringify(state)); }
  catch { byId("hint").textContent = "This browser keeps nothing: save your ratings before you close the page."; }
}

const trial = () => data.trials[state.order[state.at]];
const clipOf = shown => (state.turned[state.order[state.at]] ? 1 - shown : shown); // which clip is shown on a side

function stop() {
  sound?.pause();
  sound = side = null;
  mark();
}

function play(shown) {
  if (!trial()) return;
  if (side === shown) { stop(); return; }
  stop();
  [sound, side] = [new Audio(trial().clips[clipOf(shown)]), shown];
  const own = sound;
  sound.addEventListener("ended", () => { if (sound === own) { heard[shown]++; stop(); } });
  sound.addEventListener("error", () => { byId("hint").textContent = "This clip cannot be played."; }, { once: true });
  sound.play().catch(() => {}); // stopped before it began
  mark();
}

// What may be pressed, and what each clip says of itself.
function mark() {
  const both = heard.every(times => times > 0);
  clips.forEach((button, shown) => {
    button.setAttribute("aria-pressed", side === shown);
    button.querySelector("span").textContent = side === shown ? "playing" : heard[shown] === 1 ? "heard once" : heard[shown] ? `heard ${heard[shown]} times` : "not heard yet";
  });
  const rated = trial() && state.ratings[trial().id];
  choices.forEach(button => {
    button.disabled = !both && !rated;
    const chosen = rated && (rated.choice === "same" ? "same" : String(clipOf(Number(rated.choice))));
    button.setAttribute("aria-pressed", chosen === button.dataset.choice);
  });
  byId("hint").textContent = both || rated ? "" : "Listen to both to the end first.";
  byId("back").disabled = state.at === 0;
  byId("count").textContent = Object.keys(state.ratings).length;
}

function show() {
  heard = [0, 0];
  since = performance.now();
  stop();
  const now = trial();
  document.querySelector("main").hidden = !now;
  byId("done").hidden = Boolean(now);
  byId("bar").max = data.trials.length;
  byId("bar").value = Object.keys(state.ratings).length;
  if (now) {
    byId("place").textContent = `Pair ${state.at + 1} of ${data.trials.length}`;
    byId("text").textContent = now.text;
  }
  mark();
}

function choose(shown) {
  const now = trial();
  if (!now || choices.find(button => button.dataset.choice === shown).disabled) return;
  state.ratings[now.id] = { choice: shown === "same" ? "same" : clipOf(Number(shown)), first: clipOf(0), heard: [...heard],
    seconds: Math.round((performance.now() - since) / 100) / 10 };
  state.at++;
  keep();
  show();
}

function back() {
  if (state.at === 0) return;
  state.at--;
  keep();
  show();
}

// What is saved: of each pair which clip was better (0, 1 or "same") and which one was shown first.
const exported = () => JSON.stringify({ kind: "pcg ratings", version: 1, test: data.test, session: state.session, listener: state.listener,
  pairs: data.trials.length, ratings: state.ratings }, null, 1);

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([exported()], { type: "application/json" }));
  link.download = `ratings-${data.test}-${state.listener.replace(/[^\p{L}\p{N}]+/gu, "_") || state.session.slice(0, 8)}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}

clips.forEach((button, shown) => button.addEventListener("click", () => play(shown)));
choices.forEach(button => button.addEventListener("click", () => choose(button.dataset.choice)));
byId("back").addEventListener("click", back);
byId("save").addEventListener("click", save);
byId("listener").value = state.listener;
byId("listener").addEventListener("input", event => { state.listener = event.target.value.trim(); keep(); });
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input")) { if (event.key === "Escape" || event.key === "Enter") event.target.blur(); return; }
  const act = { 1: () => play(0), 2: () => play(1), ArrowLeft: () => choose("0"), ArrowRight: () => choose("1"),
    ArrowDown: () => choose("same"), Backspace: back }[event.key];
  if (!act) return;
  act();
  event.preventDefault();
});
keep();
show();
