"use strict";
// Boxes that have nothing to scroll are no stops of the Tab key.
(() => {
  const watch = new ResizeObserver(entries => {
    for (const {target: box} of entries) {
      if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
      else if (box !== document.activeElement) box.removeAttribute("tabindex");
    }
  });
  document.querySelectorAll(".scroll").forEach(box => watch.observe(box));
})();
// The map of the cells that can be looked into: it replaces the picture of them on a screen, if all
// goes well. Names are only ever written as text, never as markup.
(() => {
  const root = document.getElementById("map");
  if (!root) return;
  const find = name => root.querySelector(`.map-${name}`);
  const canvas = find("canvas"), pen = canvas.getContext("2d"), base = document.createElement("canvas");
  const stage = find("stage"), tip = find("tip"), status = find("status"), legend = find("legend");
  const choice = find("color");
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  // All browsers that there are store the lower byte first, as the numbers were written.
  const numbers = (text, wide) => wide ? new Uint16Array(bytes(text).buffer) : bytes(text);
  const scaled = text => Float32Array.from(numbers(text, true), value => value / 65535);
  const x = scaled(data.x), y = scaled(data.y), n = x.length;
  const fields = data.fields.map(field => ({...field, codes: numbers(field.codes, field.wide)}));
  const sure = data.confidence && bytes(data.confidence.values);
  const GREY = "#d3d3d3", EDGE = 18, MOST = 64, NEAR = 14, NONE = -1;
  let field = fields[0], only = NONE, chosen = NONE, held = null;
  let view = {x: .5, y: .5, zoom: 1}, width = 0, height = 0;

  // Where things are: cells within 0 to 1, the view by its middle.
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const across = u => width / 2 + (u - view.x) * view.zoom * (width - 2 * EDGE);
  const down = v => height / 2 + (v - view.y) * view.zoom * (height - 2 * EDGE);
  const look = (u, v, zoom) => {
    view = {x: clamp(u, 0, 1), y: clamp(v, 0, 1), zoom: clamp(zoom, 1, MOST)};
    if (view.zoom === 1) view.x = view.y = .5;
    canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
    draw();
  };
  // Zooms so that what is at a place of the canvas stays there.
  const zoom = (by, left = width / 2, top = height / 2) => {
    const now = clamp(view.zoom * by, 1, MOST), gain = 1 / view.zoom - 1 / now;
    look(view.x + (left - width / 2) / (width - 2 * EDGE) * gain,
         view.y + (top - height / 2) / (height - 2 * EDGE) * gain, now);
  };
  const shift = (left, top) => look(view.x - left / view.zoom / (width - 2 * EDGE),
                                    view.y - top / view.zoom / (height - 2 * EDGE), view.zoom);
  const reset = () => { only = NONE; choose(NONE); mark(); look(.5, .5, 1); };

  // What is drawn.
  const colorOf = i => {
    if (field) return field.colors[field.codes[i]];
    const value = sure[i], stops = data.confidence.stops;
    return value === 255 ? GREY : stops[Math.round(value / 254 * (stops.length - 1))];
  };
  const shown = i => only === NONE || !field || field.codes[i] === only;
  const draw = () => {
    const ratio = window.devicePixelRatio || 1, dots = new Map();
    for (const one of [canvas, base]) { one.width = width * ratio; one.height = height * ratio; }
    const ink = base.getContext("2d");
    ink.scale(ratio, ratio);
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, width, height);
    if (density) ink.drawImage(density, across(0), down(0), across(1) - across(0), down(1) - down(0));
    const radius = clamp(5 * Math.sqrt(width / n), 1.2, 4) * view.zoom ** .3, side = 2 * radius + 2;
    const dot = color => {  // each is painted once and copied
      if (!dots.has(color)) {
        const one = document.createElement("canvas");
        one.width = one.height = Math.ceil(side * ratio);
        const brush = one.getContext("2d");
        brush.scale(ratio, ratio);
        brush.fillStyle = color;
        brush.arc(side / 2, side / 2, radius, 0, 7);
        brush.fill();
        dots.set(color, one);
      }
      return dots.get(color);
    };
    for (const above of only === NONE || !field ? [true] : [false, true]) {
      for (let i = 0; i < n; i++) {
        if (shown(i) !== above) continue;
        const left = across(x[i]), top = down(y[i]);
        if (left < -9 || top < -9 || left > width + 9 || top > height + 9) continue;
        const one = dot(above ? colorOf(i) : GREY);
        ink.drawImage(one, left - side / 2, top - side / 2, one.width / ratio, one.height / ratio);
      }
    }
    ink.textAlign = "center";
    ink.textBaseline = "middle";
    ink.lineJoin = "round";
    ink.font = `bold ${field && field.marks.length > 15 ? 11 : 14}px system-ui, sans-serif`;
    for (const [code, [u, v, text, above]] of (field ? field.marks : []).entries()) {
      if (only !== NONE && only !== code) continue;
      for (const how of ["stroke", "fill"]) {
        ink[`${how}Style`] = how === "fill" ? "#000" : "#fff";
        ink.lineWidth = 3.5;
        ink[`${how}Text`](text, across(u), down(v) - (above ? 6 + radius : 0));
      }
    }
    paint();
  };
  const paint = () => {  // what was drawn, and which cell is chosen
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.drawImage(base, 0, 0);
    tip.hidden = chosen === NONE;
    if (chosen === NONE) return;
    const ratio = window.devicePixelRatio || 1, left = across(x[chosen]), top = down(y[chosen]);
    pen.scale(ratio, ratio);
    for (const [color, line] of [["#fff", 5], ["#000", 2]]) {
      pen.strokeStyle = color;
      pen.lineWidth = line;
      pen.beginPath();
      pen.arc(left, top, 8, 0, 7);
      pen.stroke();
    }
    const {offsetWidth: wide, offsetHeight: tall} = tip;
    const right = left + 16 + wide < width, leftward = left - 16 - wide > 0;
    const at = right ? left + 16 : leftward ? left - 16 - wide : left - wide / 2;
    const below = top + 16 + tall < height ? top + 16 : top - 16 - tall;  // where no side has room
    tip.style.left = `${clamp(at, 2, Math.max(width - wide - 2, 2))}px`;
    tip.style.top = `${right || leftward ? clamp(top - tall / 2, 2, Math.max(height - tall - 2, 2)) : below}px`;
  };
  const density = data.density && (() => {
    const {columns, rows, values} = data.density, made = document.createElement("canvas");
    made.width = columns;
    made.height = rows;
    const brush = made.getContext("2d"), image = brush.createImageData(columns, rows);
    bytes(values).forEach((value, i) => image.data.set([120, 120, 120, .6 * value], 4 * i));
    brush.putImageData(image, 0, 0);
    return made;
  })();

  // What is said of a cell.
  const lines = i => {
    const all = fields.map(one => [one.title, one.names[one.codes[i]]]);
    const known = sure && (sure[i] === 255 ? "unknown" : (sure[i] / 254).toFixed(2));
    if (sure) all.splice(1, 0, [data.confidence.title, known]);
    return all;
  };
  const choose = (i, {aloud = false} = {}) => {
    chosen = i;
    tip.replaceChildren();
    const said = i === NONE ? [] : lines(i);
    for (const [name, value] of said) {
      const line = document.createElement("div"), label = document.createElement("span");
      label.textContent = `${name}: `;
      line.append(label, value);
      tip.append(line);
    }
    if (aloud) status.textContent = said.map(pair => pair.join(" ")).join(", ");
  };
  const nearest = (left, top, far = Infinity, takes = () => true) => {
    let best = NONE, least = far * far;
    for (let i = 0; i < n; i++) {
      const a = across(x[i]) - left, b = down(y[i]) - top, d = a * a + b * b;
      if (d < least && shown(i) && takes(a, b, i)) { best = i; least = d; }
    }
    return best;
  };
  const show = i => {  // by keyboard: the view follows
    if (i === NONE) return;
    choose(i, {aloud: true});
    const left = across(x[i]), top = down(y[i]);
    const out = left < EDGE / 2 || top < EDGE / 2 || left > width - EDGE / 2 || top > height - EDGE / 2;
    if (out) look(x[i], y[i], view.zoom); else paint();
  };

  // The legend, whose buttons leave one category in colour.
  const mark = () => {
    for (const button of legend.children) {
      button.setAttribute("aria-pressed", String(Number(button.value) === only));
    }
  };
  const explain = () => {
    legend.replaceChildren();
    find("scale").hidden = Boolean(field);
    legend.hidden = !field;
    for (const [code, name] of (field ? field.names : []).entries()) {
      const button = document.createElement("button"), chip = document.createElement("span");
      const letter = field.marks[code] ? field.marks[code][2] : "";
      chip.className = "chip";
      chip.style.background = field.colors[code];
      button.type = "button";
      button.value = code;
      button.tabIndex = code ? -1 : 0;
      button.append(chip, letter && letter !== name ? `${letter}  ${name}` : name);
      legend.append(button);
    }
    mark();
  };
  legend.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (!button) return;
    only = only === Number(button.value) ? NONE : Number(button.value);
    choose(NONE);
    mark();
    draw();
  });
  legend.addEventListener("keydown", event => {  // one stop of the Tab key, arrows within
    const all = [...legend.children], at = all.indexOf(document.activeElement);
    const steps = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1};
    const to = {Home: 0, End: all.length - 1}[event.key] ?? at + (steps[event.key] ?? NaN);
    if (at < 0 || Number.isNaN(to)) return;
    event.preventDefault();
    const next = all[clamp(to, 0, all.length - 1)];
    all.forEach(button => { button.tabIndex = button === next ? 0 : -1; });
    next.focus();
  });

  // By keyboard.
  const SIDES = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  const start = () => nearest(width / 2, height / 2);
  const step = ([right, below]) => {  // to the nearest cell within 45 degrees of that side
    if (chosen === NONE) return show(start());
    show(nearest(across(x[chosen]), down(y[chosen]), Infinity, (a, b) => {
      const along = a * right + b * below;
      return along > .5 && along >= Math.abs(a * below - b * right);
    }));
  };
  const jump = by => {  // to the middle of the next category
    const one = field || fields[0], from = chosen === NONE ? (by > 0 ? -1 : 0) : one.codes[chosen];
    const k = one.marks.length, to = ((from + by) % k + k) % k, [u, v] = one.marks[to];
    if (only !== NONE) { only = field ? to : NONE; mark(); draw(); }
    show(nearest(across(u), down(v), Infinity, (a, b, i) => one.codes[i] === to));
  };
  canvas.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = chosen === NONE ? [] : [across(x[chosen]), down(y[chosen])];
    const side = SIDES[event.key];
    if (side && event.shiftKey) shift(-60 * side[0], -60 * side[1]);
    else if (side) step(side);
    else if (event.key === "+" || event.key === "=") zoom(1.5, ...at);
    else if (event.key === "-") zoom(1 / 1.5, ...at);
    else if (event.key === "0" || event.key === "Home") reset();
    else if (event.key === "PageDown") jump(1);
    else if (event.key === "PageUp") jump(-1);
    else if (event.key === "Escape") { choose(NONE); paint(); }
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("focus", () => {
    if (canvas.matches(":focus-visible") && chosen === NONE) show(start());
  });
  canvas.addEventListener("blur", () => { choose(NONE); paint(); });

  // By mouse, pen and fingers.
  const fingers = new Map();
  const place = event => {
    const at = canvas.getBoundingClientRect();
    return [event.clientX - at.left, event.clientY - at.top];
  };
  const apart = () => {
    const [[a, b], [c, d]] = [...fingers.values()];
    return {far: Math.hypot(a - c, b - d), left: (a + c) / 2, top: (b + d) / 2};
  };
  const hover = event => { choose(nearest(...place(event), NEAR)); paint(); };
  canvas.addEventListener("pointerdown", event => {
    fingers.set(event.pointerId, place(event));
    held = fingers.size === 2 ? apart() : null;
    canvas.setPointerCapture(event.pointerId);
    hover(event);
  });
  canvas.addEventListener("pointermove", event => {
    const before = fingers.get(event.pointerId);
    if (!before) return hover(event);
    const [left, top] = place(event);
    fingers.set(event.pointerId, [left, top]);
    if (fingers.size === 2 && held) {
      const now = apart();
      zoom(now.far / Math.max(held.far, 1), now.left, now.top);
      shift(now.left - held.left, now.top - held.top);
      held = now;
    } else if (fingers.size === 1 && view.zoom > 1) {
      shift(left - before[0], top - before[1]);
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, event => { fingers.delete(event.pointerId); held = null; });
  }
  canvas.addEventListener("pointerleave", event => {
    if (event.pointerType === "mouse" && !fingers.size) { choose(NONE); paint(); }
  });
  canvas.addEventListener("dblclick", event => zoom(2, ...place(event)));
  canvas.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.metaKey) return;  // else it scrolls the page
    event.preventDefault();
    zoom(Math.exp(-clamp(event.deltaY, -100, 100) / 200), ...place(event));
  }, {passive: false});
  find("in").addEventListener("click", () => zoom(1.5));
  find("out").addEventListener("click", () => zoom(1 / 1.5));
  find("reset").addEventListener("click", reset);
  choice.addEventListener("change", () => {
    field = fields[Number(choice.value)] || null;
    only = NONE;
    choose(NONE);
    explain();
    draw();
  });

  const fit = () => {
    width = stage.clientWidth;
    height = Math.round(clamp(.66 * width, 260, .7 * Math.max(window.innerHeight, 400)));
    stage.style.height = `${height}px`;
    if (width) draw();
  };
  root.parentElement.classList.add("live");
  root.hidden = false;
  choice.value = "0";  // a browser may remember another
  explain();
  fit();
  new ResizeObserver(() => { if (stage.clientWidth !== width) fit(); }).observe(stage);
})();
