// Pictures to try: drawn here, so that none has to be carried or licensed.

const SIDE = 336;

const DRAWN = {
  circle(pen) {
    pen.fillStyle = "#e02020";
    pen.beginPath();
    pen.arc(168, 168, 70, 0, 2 * Math.PI);
    pen.fill();
  },
  two(pen) {
    pen.fillStyle = "#2050e0";
    pen.fillRect(45, 180, 100, 100);
    pen.fillStyle = "#20a040";
    pen.beginPath();
    pen.moveTo(235, 55);
    pen.lineTo(290, 155);
    pen.lineTo(180, 155);
    pen.fill();
  },
  square(pen) {
    pen.fillStyle = "black";
    pen.fillRect(0, 0, SIDE, SIDE);
    pen.fillStyle = "#f0d020";
    pen.fillRect(110, 110, 116, 116);
  },
};

export const EXAMPLES = Object.keys(DRAWN);

/** Return the drawing of an example. */
export function drawExample(name) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, SIDE, SIDE);
  DRAWN[name](pen);
  return canvas;
}

/** Return an example's drawing as a file. */
export async function exampleFile(name) {
  const blob = await new Promise((done) => drawExample(name).toBlob(done, "image/png"));
  return new File([blob], `${name}.png`, {type: "image/png"});
}
