// Pictures: grey images, bars for other data, and q(z|x) by dimension.

const CAP = 6, WIDEST = 48; // pixels: of the ends of a line, and of a bar

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A canvas as sharp as the screen, in CSS pixels; empty.
export function cleared(canvas) {
  const { width, height } = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return { context, width, height };
}

// `beside`: further values that set the scale of the bars, so that two pictures can be compared.
export function show(canvas, values, about, beside = []) {
  canvas.classList.toggle("image", about.is_image);
  if (about.is_image) image(canvas, values, about.shape);
  else bars(canvas, values.map((value) => [value, 0]), null, beside);
}

function image(canvas, values, [height, width]) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
  values.forEach((value, i) => {
    const grey = 255 * Math.min(Math.max(Number(value) || 0, 0), 1);
    picture.data.set([grey, grey, grey, 255], 4 * i);
  });
  context.putImageData(picture, 0, 0);
}

// A bar from zero to each value, and a line of its scale on each side.
export function bars(canvas, pairs, names, beside = []) {
  const { context, width, height } = cleared(canvas);
  const finite = pairs.map(([loc, scale]) => [Number(loc) || 0, Math.abs(Number(scale)) || 0]);
  const others = beside.map((value) => Number(value) || 0);
  const top = Math.max(1e-9, ...others, ...finite.map(([loc, scale]) => loc + scale));
  const bottom = Math.min(0, ...others, ...finite.map(([loc, scale]) => loc - scale));
  const left = 38, foot = names ? 18 : 6, step = Math.min((width - left - 4) / finite.length, WIDEST);
  const y = (value) => 6 + (top - value) / (top - bottom) * (height - 6 - foot);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = context.strokeStyle = colour("--quiet");
  context.textAlign = "right";
  for (const value of new Set([top, 0, bottom])) context.fillText(value.toPrecision(2), left - 4, y(value) + 4);
  context.fillRect(left, y(0) - 0.5, width - left - 4, 1);
  const apart = Math.ceil(22 / step);
  finite.forEach(([loc, scale], i) => {
    const x = left + i * step, thick = Math.max(step - Math.min(3, step / 4), 1);
    context.fillStyle = colour("--blue");
    context.fillRect(x, Math.min(y(loc), y(0)), thick, Math.max(Math.abs(y(loc) - y(0)), 1));
    context.fillStyle = colour("--orange");
    if (scale > 0) {
      const middle = x + thick / 2, cap = Math.min(CAP, thick) / 2;
      context.fillRect(middle - 1, y(loc + scale), 2, y(loc - scale) - y(loc + scale));
      for (const end of [loc + scale, loc - scale]) context.fillRect(middle - cap, y(end) - 0.75, 2 * cap, 1.5);
    }
    if (names && i % apart === 0) {
      context.fillStyle = colour("--quiet");
      context.textAlign = "center";
      context.fillText(names[i], x + thick / 2, height - 4);
    }
  });
}
