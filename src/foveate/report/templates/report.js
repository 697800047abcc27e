"use strict";
(() => {
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const HUES = ["#3a83c9", "#d97a0b", "#2c9c6b", "#b8479c", "#8a6cd6", "#c8402a", "#0c97a6", "#84902a"];
const BUILT_IN = ["system", "user", "assistant", "special", "first", "generated"];
let item = DATA.items[0];

// -- small helpers --------------------------------------------------------------------------------
const el = (tag, attrs = {}, text) => {
  const node = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) node.setAttribute(k, v);
  if (text !== undefined) node.textContent = text;
  return node;
};
const svg = (tag, attrs, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(attrs)) node.setAttribute(k, v);
  if (text !== undefined) node.textContent = text;
  return node;
};
const known = (v) => v !== null && v !== undefined && !Number.isNaN(v);
const show = (v) => !known(v) ? "–" : v === 0 ? "0" : Math.abs(v) >= 1000 ? v.toFixed(0)
  : Math.abs(v) >= 0.001 ? String(+v.toPrecision(3)) : v.toExponential(1);
const regionColour = (name) => {
  const own = Object.keys(item.regions).filter((r) => !BUILT_IN.includes(r));
  const at = own.indexOf(name);
  return at >= 0 ? HUES[at % HUES.length] : null;
};

// -- colours: ramps come from the style sheet, so that they follow the theme -------------------------
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const ramp = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).split(",").map((c) => rgb(c.trim()));
let heat, diverge;
const mix = (stops, t) => {
  const x = Math.min(1, Math.max(0, t)) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(x));
  return stops[i].map((c, k) => Math.round(c + (stops[i + 1][k] - c) * (x - i)));
};
const css = (c) => `rgb(${c.join(",")})`;
const ink = (c) => 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2] > 140 ? "#1a1815" : "#fdfaf4";
const gradient = (stops) => `linear-gradient(90deg, ${stops.map(css).join(", ")})`;

// -- coded numbers (report/encode.py) ----------------------------------------------------------------
const opened = new Map();
const open = (coded) => {
  if (!coded) return null;
  if (!opened.has(coded)) {
    const raw = Uint8Array.from(atob(coded.data), (c) => c.charCodeAt(0));
    const code = coded.bits === 16 ? new Uint16Array(raw.buffer) : raw;
    const n = coded.shape[coded.shape.length - 1], steps = 2 ** coded.bits - 2;
    opened.set(coded, (row) => Array.from(code.subarray(row * n, (row + 1) * n),
      (c) => c === 0 ? 0 : coded.high[row] * coded.floor ** (1 - (c - 1) / steps)));
  }
  return opened.get(coded);
};

// -- the tip ----------------------------------------------------------------------------------------
const tip = $("tip");
const tell = (event, text) => {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const w = tip.offsetWidth, h = tip.offsetHeight;
  tip.style.left = Math.max(4, Math.min(innerWidth - w - 8, event.clientX + 14)) + "px";
  tip.style.top = (event.clientY + h + 24 > innerHeight ? event.clientY - h - 10 : event.clientY + 18) + "px";
};

// -- tokens -----------------------------------------------------------------------------------------
const options = (select, pairs) => {
  const old = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
  if (pairs.some(([value]) => String(value) === old)) select.value = old;
};
const tokenMap = () => item.token_maps[+$("map").value] || item.token_maps[0];
const tokenChoices = () => {
  const map = tokenMap();
  options($("map"), item.token_maps.map((m, i) => [i, m.label]));
  options($("layer"), [["", "mean"], ...(map.layers ? DATA.layers.map((l, i) => [i, l]) : [])]);
  options($("head"), [["", "mean"], ...(map.heads ? Array.from({ length: DATA.heads }, (_, h) => [h, h]) : [])]);
  $("fair-label").hidden = !(DATA.causal && map.unit.startsWith("summed"));
};
const tokenValues = () => {
  const map = tokenMap(), layer = $("layer").value, head = $("head").value;
  let values;
  if (layer === "" && head === "") values = map.mean;
  else if (head === "") values = open(map.layers)(+layer);
  else {
    const rows = open(map.heads), of = layer === "" ? DATA.layers.map((_, i) => i) : [+layer];
    const all = of.map((l) => rows(l * DATA.heads + +head));
    values = all[0].map((_, i) => all.reduce((sum, row) => sum + row[i], 0) / all.length);
  }
  const fair = !$("fair-label").hidden && $("fair").checked;
  return fair ? values.map((v, i) => v / (values.length - i)) : values;
};
const regionsOf = (() => {
  const cache = new Map();
  return (one) => {
    if (!cache.has(one)) {
      const found = one.tokens.map(() => []);
      for (const [name, where] of Object.entries(one.regions)) for (const i of where) found[i].push(name);
      cache.set(one, found);
    }
    return cache.get(one);
  };
})();
const drawTokens = () => {
  $("look").hidden = !item.token_maps.length;
  if (!item.token_maps.length) return;
  tokenChoices();
  const map = tokenMap(), values = tokenValues(), regions = regionsOf(item);
  const fair = !$("fair-label").hidden && $("fair").checked;
  const unit = fair ? "mean over the queries that could see it" : map.unit;
  const scaled = $("sink").checked && values.length > 1 ? values.slice(1) : values;
  const high = scaled.reduce((a, b) => Math.max(a, b || 0), 0) || 1;
  const box = document.createDocumentFragment(), hidden = patchesOf(item);
  visible = [];
  item.tokens.forEach((token, i) => {
    if (hidden.has(i) && hidden.get(i) === hidden.get(i - 1)) return;  // its picture stands for it
    visible.push(i);
    const t = hidden.has(i) ? 0 : Math.sqrt(Math.min(1, (values[i] || 0) / high)), colour = mix(heat, t);
    const text = hidden.has(i) ? `[picture ${hidden.get(i) + 1}]` : token.replace(/\t/g, "→").replace(/\n/g, "↵");
    const node = el("span", { "data-i": i }, text === "" ? "·" : text);
    if (regions[i].includes("special")) node.className = "special";
    node.style.background = css(colour);
    node.style.color = ink(colour);
    const own = hidden.has(i) ? [] : regions[i].filter((r) => !BUILT_IN.includes(r));
    if (own.length) node.style.boxShadow = own.map((r, k) => `inset 0 ${-3 * (k + 1)}px 0 ${regionColour(r)}`).join(", ");
    box.append(node);
    if (token.includes("\n")) box.append("\n");
  });
  $("tokens").replaceChildren(box);
  drawPictures(values, unit);
  const said = (i) => hidden.has(i) ? `picture ${hidden.get(i) + 1}: see above` : `token ${i}: ${JSON.stringify(item.tokens[i])}\n${$("head").value === "" ? "" : "≈ "}${show(values[i])} ${unit}`
    + (regions[i].length ? `\nin ${regions[i].join(", ")}` : "");
  $("tokens").onmousemove = (e) => tell(e, e.target.dataset.i !== undefined ? said(+e.target.dataset.i) : "");
  $("tokens").onmouseleave = (e) => tell(e, "");
  point = (i) => {  // by keyboard
    at = i >= at ? visible.find((v) => v >= i) ?? visible[visible.length - 1]
      : visible.filter((v) => v <= i).pop() ?? visible[0];
    const node = $("tokens").querySelector(`[data-i="${at}"]`), box = node.getBoundingClientRect();
    $("tokens").querySelectorAll(".at").forEach((other) => other.classList.remove("at"));
    node.classList.add("at");
    node.scrollIntoView({ block: "nearest" });
    tell({ clientX: box.left, clientY: box.bottom }, said(at));
  };
  const bar = el("span", { class: "bar" });
  bar.style.background = gradient(heat);
  const first = known(values[0]) && $("sink").checked ? `  ·  the first token has ${show(values[0])}` : "";
  $("scale").replaceChildren(el("span", {}, "0"), bar, el("span", {}, `${show(high)}  ${unit} (square-root scale)${first}`));
  $("marks").replaceChildren(...Object.keys(item.regions).filter((r) => regionColour(r)).map(legend));
  const order = values.map((v, i) => [v || 0, i]).sort((a, b) => b[0] - a[0]).slice(0, 8);
  $("top").replaceChildren(...order.flatMap(([v, i]) => {
    const bar = el("i");
    bar.style.width = 100 * v / (order[0][0] || 1) + "%";
    const text = item.tokens[i].replace(/\n/g, "↵") || "·";
    return [el("b", {}, text.trim() ? text : text.replace(/ /g, "␣")), el("small", {}, `token ${i}`), el("span", {}, show(v)), bar];
  }));
};
let at = 0, visible = [], point = () => {};

// -- pictures: what each patch gets, drawn over it ------------------------------------------------------
const patchesOf = (() => {
  const cache = new Map();  // item -> token -> its picture
  return (one) => {
    if (!cache.has(one)) cache.set(one, new Map(one.pictures.flatMap((p, n) => p.tokens.map((i) => [i, n]))));
    return cache.get(one);
  };
})();
const drawPictures = (values, unit) => {
  $("pictures").hidden = !item.pictures.length;
  const regions = regionsOf(item), of = (p) => p.at.map((i) => values[i] || 0);
  const high = Math.max(...item.pictures.flatMap(of)) || 1;
  $("pictures").replaceChildren(...item.pictures.map((p, n) => {
    const figure = el("figure"), stage = el("div", { class: "stage" });
    stage.style.aspectRatio = `${p.width} / ${p.height}`;
    stage.append(el("img", { src: p.src, alt: `picture ${n + 1}` }));
    const sum = of(p).reduce((a, b) => a + b, 0);
    if (p.at.length) {
      const k = 24, canvas = el("canvas", { width: p.columns * k, height: p.rows * k, role: "img",
        "aria-label": `attention on the patches of picture ${n + 1}, at most ${show(high)}` });
      const [x0, y0, x1, y1] = p.frame, pen = canvas.getContext("2d");
      for (const [side, v] of [["left", x0 / p.width], ["top", y0 / p.height], ["width", (x1 - x0) / p.width], ["height", (y1 - y0) / p.height]])
        canvas.style[side] = 100 * v + "%";
      of(p).forEach((v, i) => {
        const c = i % p.columns, r = Math.floor(i / p.columns), t = Math.sqrt(Math.min(1, v / high));
        // dark where nothing looks, the picture's own light where most does
        pen.fillStyle = `rgba(10, 8, 20, ${0.78 * (1 - t)})`;
        pen.fillRect(c * k, r * k, k, k);
        pen.fillStyle = `rgba(255, 150, 30, ${0.3 * t * t})`;
        pen.fillRect(c * k, r * k, k, k);
      });
      p.at.forEach((token, i) => {  // marked regions are outlined
        const c = i % p.columns, r = Math.floor(i / p.columns);
        regions[token].filter((name) => !BUILT_IN.includes(name) && name !== "image").forEach((name, inset) => {
          const inside = (rr, cc) => rr >= 0 && cc >= 0 && rr < p.rows && cc < p.columns && regions[p.at[rr * p.columns + cc]].includes(name);
          pen.fillStyle = regionColour(name);
          const d = 1 + 3 * inset, w = 3;
          if (!inside(r - 1, c)) pen.fillRect(c * k, r * k + d, k, w);
          if (!inside(r + 1, c)) pen.fillRect(c * k, (r + 1) * k - d - w, k, w);
          if (!inside(r, c - 1)) pen.fillRect(c * k + d, r * k, w, k);
          if (!inside(r, c + 1)) pen.fillRect((c + 1) * k - d - w, r * k, w, k);
        });
      });
      canvas.onmousemove = (e) => {
        const box = canvas.getBoundingClientRect();
        const c = Math.floor((e.clientX - box.left) / box.width * p.columns), r = Math.floor((e.clientY - box.top) / box.height * p.rows);
        const i = r * p.columns + c;
        tell(e, i in p.at ? `row ${r}, column ${c}\n${show(values[p.at[i]])} ${unit}\nin ${regions[p.at[i]].join(", ")}` : "");
      };
      canvas.onmouseleave = (e) => tell(e, "");
      canvas.onclick = (e) => {
        const box = canvas.getBoundingClientRect();
        const c = Math.floor((e.clientX - box.left) / box.width * p.columns), r = Math.floor((e.clientY - box.top) / box.height * p.rows);
        if (r * p.columns + c in p.at) pick(p.at[r * p.columns + c]);
      };
      stage.append(canvas);
    }
    const bare = el("div", { class: "stage" });
    bare.style.aspectRatio = `${p.width} / ${p.height}`;
    bare.append(el("img", { src: p.src, alt: "" }));
    const two = el("div", { class: "beside" });
    two.append(bare, ...(p.at.length ? [stage] : []));
    figure.append(two, el("figcaption", {}, p.note || `picture ${n + 1}: ${p.rows} × ${p.columns} patches have ${show(sum)} in all, the brightest ${show(Math.max(...of(p)))}`));
    return figure;
  }));
};
$("tokens").addEventListener("keydown", (e) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity }[e.key];
  if (step) point(at + step);
  else if (e.key === "Enter") pick(at);
  else return;
  e.preventDefault();
});
$("tokens").addEventListener("focus", () => { if ($("tokens").matches(":focus-visible")) point(at); });
$("tokens").addEventListener("blur", () => {
  $("tokens").querySelectorAll(".at").forEach((node) => node.classList.remove("at"));
  tell({}, "");
});
$("tokens").addEventListener("click", (e) => { if (e.target.dataset.i !== undefined) pick(+e.target.dataset.i); });

// -- inside foveate's own page a token can be asked about: it answers with maps of that token ---------
const paged = parent !== window && DATA.asks;
const pick = (i) => { at = i; if (paged) parent.postMessage({ token: i }, "*"); };
if (paged) {
  $("ask").hidden = false;
  addEventListener("message", (e) => {
    if (e.source !== parent || !e.data || !Array.isArray(e.data.maps)) return;
    item.token_maps = [...item.token_maps.filter((map) => !map.asked), ...e.data.maps.map((map) => ({ ...map, asked: true }))];
    $("map").value = "";
    tokenChoices();
    $("map").value = item.token_maps.findIndex((map) => map.asked);
    drawTokens();
  });
}
const legend = (name) => {
  const node = el("span", {}), dot = el("i", { class: "dot" });
  dot.style.background = regionColour(name) || "var(--old)";
  node.append(dot, name);
  return node;
};

// -- lines by depth ----------------------------------------------------------------------------------
const GREYS = { first: "4 3", user: "1 3", system: "8 3", special: "2 2", assistant: "6 2 1 2", generated: "10 2" };
const drawLines = (into, label, take, old) => {
  // what was marked, and the sink; the roles only where nothing was marked
  const all = item.masses.filter((m) => take(m).some(known)), marked = all.filter((m) => !BUILT_IN.includes(m.region));
  const shown = marked.length ? all.filter((m) => !BUILT_IN.includes(m.region) || m.region === "first") : all;
  const n = Math.max(0, ...shown.map((m) => take(m).length));
  into.replaceChildren();
  if (!n || !shown.length) return [];
  const W = 520, H = 230, L = 46, B = 26, T = 10, R = 10;
  const series = shown.flatMap((m) => {
    const b = old && item.before.find((o) => o.region === m.region);
    return [{ m, values: take(m), faded: false }, ...(b ? [{ m, values: take(b), faded: true }] : [])];
  });
  const most = Math.max(...series.flatMap((s) => s.values.filter(known))) || 1;
  const high = [0.004, 0.01, 0.02, 0.04, 0.08, 0.12, 0.2, 0.4, 0.6, 0.8].find((v) => v >= most) || Math.max(1, most);
  const x = (i) => L + (n > 1 ? i / (n - 1) : 0.5) * (W - L - R), y = (v) => H - B - (v / high) * (H - B - T);
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "font-size": 11, fill: "currentColor" });
  for (const f of [0, 0.25, 0.5, 0.75, 1]) {
    root.append(svg("line", { x1: L, x2: W - R, y1: y(f * high), y2: y(f * high), stroke: "var(--line)" }),
      svg("text", { x: L - 6, y: y(f * high) + 4, "text-anchor": "end", fill: "var(--muted)" }, String(+(100 * f * high).toFixed(2)) + " %"));
  }
  const ticks = [...new Set([0, 0.25, 0.5, 0.75, 1].map((f) => Math.round(f * (n - 1))))];
  ticks.forEach((i, k) => root.append(svg("text", { x: x(i), y: H - 8, fill: "var(--muted)",
    "text-anchor": k && k === ticks.length - 1 ? "end" : k || ticks.length === 1 ? "middle" : "start" }, label(i))));
  for (const { m, values, faded } of series) {
    const colour = regionColour(m.region) || "var(--muted)";
    const points = values.map((v, i) => known(v) ? `${x(i).toFixed(1)},${y(v).toFixed(1)}` : null).filter(Boolean);
    root.append(svg("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": faded ? 1.2 : 2,
      "stroke-linejoin": "round", "stroke-dasharray": faded ? "3 3" : regionColour(m.region) ? "" : GREYS[m.region] || "", opacity: faded ? 0.65 : 1 }));
  }
  into.append(root);
  into.onmousemove = (e) => {
    const box = root.getBoundingClientRect(), at = ((e.clientX - box.left) / box.width * W - L) / (W - L - R) * (n - 1);
    const i = Math.max(0, Math.min(n - 1, Math.round(at)));
    tell(e, `${label(i)}\n` + shown.map((m) => `${m.region}: ${known(take(m)[i]) ? (100 * take(m)[i]).toFixed(1) + " %" : "–"}`).join("\n"));
  };
  into.onmouseleave = (e) => tell(e, "");
  return shown.map((m) => m.region);
};
const drawDepth = () => {
  const one = drawLines($("by-layer"), (i) => `layer ${DATA.layers[i]}`, (m) => m.layers.length === DATA.layers.length ? m.layers : [], true);
  const two = drawLines($("by-step"), (i) => `token ${i + 1}`, (m) => m.steps, false);
  $("by-step-figure").hidden = !two.length;
  $("depth").hidden = !one.length;
  $("lines").replaceChildren(...[...new Set([...one, ...two])].map((name) => {
    if (regionColour(name)) return legend(name);
    const node = el("span"), line = svg("svg", { width: 26, height: 8 });
    line.append(svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: "var(--muted)", "stroke-width": 2, "stroke-dasharray": GREYS[name] || "" }));
    node.append(line, " " + name);
    return node;
  }), ...(item.before.length ? [el("small", {}, "dashed and faint: before steering")] : []));
};

// -- heat maps ---------------------------------------------------------------------------------------
const drawGrid = (title, rows, unit, axes, name, signed) => {
  // rows: [down][across]
  const flat = rows.flat().filter(known), down = rows.length, across = rows[0].length;
  const top = Math.max(...flat, 0), low = signed ? -Math.max(...flat.map(Math.abs), 1e-12) : Math.min(...flat, top);
  const high = signed ? -low : top, from = !signed && low > 0 && low < 0.3 * high ? 0 : low;
  const box = el("div", { class: "grid" }), cell = Math.max(3, Math.min(16, Math.floor(420 / across)));
  const canvas = el("canvas", { width: across * cell, height: down * cell, role: "img",
    "aria-label": `${title}: ${show(low)} to ${show(high)} ${unit}` });
  canvas.style.maxWidth = Math.max(across * cell, 150) + "px";
  const pen = canvas.getContext("2d"), gap = cell > 6 ? 1 : 0;
  rows.forEach((row, r) => row.forEach((v, c) => {
    if (!known(v)) return;
    pen.fillStyle = css(mix(signed ? diverge : heat, high > from ? (v - from) / (high - from) : 0));
    pen.fillRect(c * cell, r * cell, cell - gap, cell - gap);
  }));
  canvas.onmousemove = (e) => {
    const at = canvas.getBoundingClientRect();
    const c = Math.floor((e.clientX - at.left) / at.width * across), r = Math.floor((e.clientY - at.top) / at.height * down);
    tell(e, rows[r] && c < across ? `${name(r, c)}\n${show(rows[r][c])} ${unit}` : "");
  };
  canvas.onmouseleave = (e) => tell(e, "");
  const bar = el("span", { class: "bar" }), scale = el("div", { class: "scale" });
  bar.style.background = gradient(signed ? diverge : heat);
  bar.style.width = "120px";
  scale.append(el("span", {}, show(from)), bar, el("span", {}, `${show(high)} ${unit}`));
  const words = el("div", { class: "axes" });
  words.style.maxWidth = canvas.style.maxWidth;
  words.append(...axes.map((a) => el("span", {}, a)));
  box.append(el("h4", {}, title), canvas, words, scale);
  return box;
};
const turn = (rows) => rows[0].map((_, h) => rows.map((row) => row[h]));
const drawGrids = () => {
  $("heads").hidden = !item.grids.length;
  $("which-label").hidden = !item.grids_before.length;
  const when = $("when").value, which = item.grids_before.length ? $("which").value : "after";
  const weight = (g) => g.key.startsWith("mass:") ? (BUILT_IN.includes(g.key.slice(5)) ? 2 : 0) : 1;
  const grids = [...item.grids].sort((a, b) => weight(a) - weight(b));
  $("grids").replaceChildren(...grids.map((grid) => {
    const old = item.grids_before.find((g) => g.key === grid.key);
    if (which !== "after" && !old) return null;
    const rows = which === "before" ? old[when] : which === "after" ? grid[when]
      : grid[when].map((row, l) => row.map((v, h) => known(v) && known(old[when][l][h]) ? v - old[when][l][h] : null));
    const ends = [`layer ${DATA.layers[0]}`, `${DATA.heads} heads, downwards`, `layer ${DATA.layers[DATA.layers.length - 1]}`];
    return drawGrid(grid.label, turn(rows), grid.unit, ends, (r, c) => `layer ${DATA.layers[c]}, head ${r}`, which === "change");
  }).filter(Boolean));
};
const drawBlocks = () => {
  $("blocks").hidden = !item.block_map;
  if (!item.block_map) return;
  const [, n] = item.block_map.shape, read = open(item.block_map);
  options($("block-layer"), [[0, "mean"], ...Array.from({ length: item.block_map.shape[0] - 1 }, (_, i) => [i + 1, DATA.layers[i] ?? i])]);
  const layer = +$("block-layer").value, size = item.tokens.length;
  const rows = Array.from({ length: n }, (_, r) => read(layer * n + r));
  const span = (b) => { const a = Math.ceil(b * size / n), z = Math.ceil((b + 1) * size / n); return z - a > 1 ? `${a}–${z - 1}` : `${a}`; };
  // the colour scale leaves out the first column: the sink would hide everything else
  const high = Math.max(...rows.flatMap((row) => row.slice(1))) || 1;
  const box = drawGrid(layer === 0 ? "Mean of all layers" : `Layer ${DATA.layers[layer - 1]}`, rows.map((row) => row.map((v) => Math.sqrt(Math.min(v / high, 1)))),
    "", ["token 0", "tokens looked at", `token ${size - 1}`], () => "", false);
  const canvas = box.querySelector("canvas");
  canvas.style.maxWidth = "420px";
  box.querySelector(".axes").style.maxWidth = "420px";
  canvas.onmousemove = (e) => {
    const at = canvas.getBoundingClientRect();
    const c = Math.floor((e.clientX - at.left) / at.width * n), r = Math.floor((e.clientY - at.top) / at.height * n);
    tell(e, rows[r] && c < n ? `tokens ${span(r)} look at ${span(c)}\n≈ ${show(rows[r][c])} of their attention` : "");
  };
  const words = box.querySelectorAll(".scale span");
  words[0].textContent = "0";
  words[2].textContent = `${show(high)} share of attention (square-root scale, first block clipped)`;
  $("block").replaceChildren(box);
};

// -- all of it ---------------------------------------------------------------------------------------
const draw = () => {
  heat = ramp("--ramp");
  diverge = ramp("--diverge");
  document.querySelectorAll(".item").forEach((node) => { node.hidden = DATA.items[+node.dataset.item] !== item; });
  document.querySelectorAll(".dot[data-region]").forEach((dot) => { dot.style.background = regionColour(dot.dataset.region) || ""; });
  drawTokens(); drawDepth(); drawGrids(); drawBlocks();
};
for (const id of ["map", "layer", "head", "sink", "fair"]) $(id).addEventListener("change", drawTokens);
for (const id of ["when", "which"]) $(id).addEventListener("change", drawGrids);
$("block-layer").addEventListener("change", drawBlocks);
if ($("item")) $("item").addEventListener("change", (e) => { item = DATA.items[+e.target.value]; draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
})();
