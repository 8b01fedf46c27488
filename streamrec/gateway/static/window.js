"use strict";
// Keeps the page fresh: figures as the server sends them, charts, times in the viewer's zone, the age of it all.
// Everything is in the HTML before this runs; without it, the page stands still and its times are UTC.

const charts = new Map();
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const inWords = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium" });
let freshAt = Date.now();
let stream = null;

function tellTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.title = time.getAttribute("datetime");
    time.textContent = inWords.format(new Date(time.getAttribute("datetime")));
  }
  for (const name of root.querySelectorAll(".zone")) name.textContent = zone;
}

function draw(box) {
  const { unit, t, lines } = JSON.parse(box.dataset.chart);
  const names = Object.keys(lines);
  if (t.length < 2) return;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const ink = [color("--accent"), color("--base")];
  const show = (_, value) => (value == null ? "–" : `${value.toLocaleString()} ${unit}`);
  const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const options = {
    width: box.clientWidth, height: 100, cursor: { y: false, drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.1 : 1] } },
    axes: [{ ...axis, size: 22, space: 70 }, { ...axis, size: 46, space: 26 }],
    series: [{ label: "time", value: (_, s) => (s == null ? "–" : inWords.format(new Date(s * 1000))) },
      ...names.map((name, at) => ({ label: name, stroke: ink[at % 2], width: 1.6, dash: at % 2 ? [5, 3] : [], value: show, points: { show: false } }))],
  };
  charts.get(box)?.destroy();
  box.textContent = "";
  charts.set(box, new uPlot(options, [t, ...names.map((name) => lines[name])], box));
}

function drawAll() {
  for (const box of document.querySelectorAll("[data-chart]")) draw(box);
}

function take(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  tellTimes(fresh);
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const shown = document.getElementById(part.id);
    if (!shown || shown.contains(document.activeElement)) continue;
    if (part.dataset.chart) {
      if (shown.dataset.chart === part.dataset.chart) continue;
      shown.dataset.chart = part.dataset.chart;
      shown.setAttribute("aria-label", part.getAttribute("aria-label"));
      draw(shown);
    } else if (shown.innerHTML !== part.innerHTML) {
      shown.innerHTML = part.innerHTML;
      htmx.process(shown);
    }
  }
  freshAt = Date.now();
  tellAge();
}

function tellAge() {
  const age = Math.round((Date.now() - freshAt) / 1000);
  const said = document.getElementById("age");
  said.textContent = `updated ${age} s ago`;
  said.classList.toggle("warn", age > 20);
}

function listen() {
  stream?.close();
  stream = null;
  if (document.hidden) return;
  stream = new EventSource("/window/live");
  stream.addEventListener("page", (event) => take(event.data));
}

document.addEventListener("visibilitychange", listen);
addEventListener("pagehide", () => stream?.close());
addEventListener("resize", () => { for (const [box, chart] of charts) chart.setSize({ width: box.clientWidth, height: 100 }); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
document.addEventListener("htmx:afterSwap", (event) => tellTimes(event.detail.target));
document.addEventListener("htmx:responseError", (event) => {
  event.detail.target.textContent = `That did not work: ${event.detail.xhr.responseText.slice(0, 300)}`;
});
const near = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (!isIntersecting) continue;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#${target.id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }
}, { rootMargin: "-15% 0px -75% 0px" });
for (const section of document.querySelectorAll("section")) near.observe(section);
tellTimes(document);
drawAll();
listen();
setInterval(tellAge, 1000);
