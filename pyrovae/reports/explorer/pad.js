// A pad to draw on or to load an image into: white on black, as MNIST's digits are.

const FINE = 10; // pixels of the pad for each of the image
const STROKE = 2.4; // in the image's pixels, about as wide as MNIST's
const LARGEST = 20e6; // bytes of a picture

// `drawn(notes)` is called when an image was loaded, with what was done to it.
export function pad(canvas, [height, width], drawn) {
  canvas.width = FINE * width;
  canvas.height = FINE * height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let last = null;

  function clear() {
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * canvas.width, (event.clientY - box.top) / box.height * canvas.height];
  }

  function stroke(event) {
    const next = place(event);
    context.strokeStyle = "#fff";
    context.lineWidth = FINE * STROKE;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...next);
    context.stroke();
    last = next;
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => { if (last !== null) stroke(event); });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });

  async function load(file) {
    if (file.size > LARGEST) throw new Error("the image is larger than 20 MB: make it smaller");
    const picture = await createImageBitmap(file).catch(() => {
      throw new Error(`${file.name} is no image that the browser can read: choose a PNG`);
    });
    const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
    const sheet = document.createElement("canvas");
    sheet.width = Math.max(1, Math.round(scale * picture.width));
    sheet.height = Math.max(1, Math.round(scale * picture.height));
    const notes = [`${picture.width} by ${picture.height} pixels, scaled to fit ${width} by ${height}`];
    lay(sheet, picture, "#000");
    if (brightest(sheet) < 26) lay(sheet, picture, "#fff"); // dark ink on nothing
    if (edge(sheet) > 127) {
      const onto = sheet.getContext("2d");
      onto.globalCompositeOperation = "difference";
      onto.fillStyle = "#fff";
      onto.fillRect(0, 0, sheet.width, sheet.height);
      notes.push("inverted, since its edge is light");
    }
    clear();
    context.drawImage(sheet, (canvas.width - sheet.width) / 2, (canvas.height - sheet.height) / 2);
    drawn(notes);
  }

  // The image: in each pixel the mean of the pad's pixels, 0 to 1.
  function grey() {
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const sums = new Array(height * width).fill(0);
    for (let y = 0; y < canvas.height; y++) {
      for (let x = 0; x < canvas.width; x++) {
        sums[Math.floor(y / FINE) * width + Math.floor(x / FINE)] += light(data, 4 * (y * canvas.width + x));
      }
    }
    return sums.map((sum) => Math.min(sum / (255 * FINE * FINE), 1));
  }

  clear();
  return { clear, grey, load };
}

function lay(sheet, picture, ground) {
  const context = sheet.getContext("2d", { willReadFrequently: true });
  context.fillStyle = ground;
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.drawImage(picture, 0, 0, sheet.width, sheet.height);
}

function light(data, i) {
  return (data[i] + data[i + 1] + data[i + 2]) / 3;
}

function brightest(sheet) {
  const { data } = sheet.getContext("2d").getImageData(0, 0, sheet.width, sheet.height);
  let most = 0;
  for (let i = 0; i < data.length; i += 4) most = Math.max(most, light(data, i));
  return most;
}

// Mean brightness along the four edges.
function edge(sheet) {
  const { width, height } = sheet, context = sheet.getContext("2d");
  let sum = 0, count = 0;
  for (const [x, y, w, h] of [[0, 0, width, 1], [0, height - 1, width, 1], [0, 0, 1, height], [width - 1, 0, 1, height]]) {
    const { data } = context.getImageData(x, y, w, h);
    for (let i = 0; i < data.length; i += 4, count++) sum += light(data, i);
  }
  return sum / count;
}
