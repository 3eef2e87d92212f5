// Words: reset, query, beta, weights, read-out, entropy, nats, keys in use.
// With: plot.
// Attention of one query, an arrow of length 1, to five keys in the plane, which are their own
// values. state: { angle, beta }, with the angle in degrees and beta their inverse temperature.
{
  const { plot, shown } = explorables, MOST = 20;
  const KEYS = [[0.8, 0.1], [0.25, 0.75], [-0.65, 0.45], [-0.45, -0.65], [0.15, -0.1]];
  const HULL = KEYS.slice(0, 4); // the fifth is inside
  const place = (degrees) => [Math.cos, Math.sin].map((of) => of((degrees * Math.PI) / 180));

  explorables.attend = {
    compute({ angle, beta }) {
      const [x, y] = place(angle), scores = KEYS.map((key) => beta * (key[0] * x + key[1] * y));
      const most = Math.max(...scores), parts = scores.map((score) => Math.exp(score - most));
      const sum = parts.reduce((total, part) => total + part), weights = parts.map((part) => part / sum);
      const mean = (of) => weights.reduce((total, weight, i) => total + weight * of(i), 0);
      // The surprise of a weight that rounds to 0 is known still.
      const entropy = mean((i) => most + Math.log(sum) - scores[i]);
      return { weights, readOut: [0, 1].map((axis) => mean((i) => KEYS[i][axis])), entropy, used: Math.exp(entropy) };
    },

    set: (state, i, value) => ({ ...state, [["beta", "angle"][i]]: value }),

    draw({ angle, beta }, words, width, height) {
      const { weights, readOut, entropy, used } = this.compute({ angle, beta });
      const [, query, sharpness, weighted, mean, surprise, nats, inUse] = words;
      const side = Math.min(height - 60, width * 0.52), r = side / 2 - 9, middle = 9 + r;
      const at = ([x, y], by = 1) => [middle + by * r * x, middle - by * r * y];
      const made = plot(side + 26, width - 44, 26, height - 52), { draw, write, line, bar, x } = made;
      const rail = plot(1, width - 1, 0, height - 58);

      write(weighted, made.left - 14, 12);
      weights.forEach((weight, i) => {
        const y = 20 + 24 * i;
        bar(made.left, y, x(weight) - made.left, 16, i);
        write("ABCDE"[i], made.left - 14, y + 12);
        write(shown(weight), x(weight) + 6, y + 12);
      });
      draw("circle", { cx: middle, cy: middle, r, class: "thin", fill: "none" });
      draw("polygon", { points: HULL.map((key) => at(key)).join(" "), class: "faint", style: "fill: var(--c5)" });
      const [tipX, tipY] = at(place(angle));
      line(middle, middle, ...at(place(angle), 1 - 8 / r), "strong");
      draw("path", { d: "M0 0L-10-4V4z", transform: `translate(${tipX} ${tipY}) rotate(${-angle})`, style: "fill: var(--ink)" });
      KEYS.forEach((key, i) => {
        const [cx, cy] = at(key);
        draw("circle", { cx, cy, r: 9, class: "part", style: `fill: var(--c${i})` });
        write("ABCDE"[i], cx, cy + 4, "middle");
      });
      for (const [cx, cy] of [at(readOut), [made.left - 9, 156]])
        draw("circle", { cx, cy, r: 5, style: "fill: var(--ink); stroke: var(--paper)" });
      const rows = [[mean, readOut.map((one) => (0 + Math.round(100 * one) / 100).toFixed(2)).join(", ")], [surprise, `${shown(entropy)} ${nats}`], [inUse, shown(used)]];
      rows.forEach(([word, text], n) => {
        write(word, made.left, 160 + 36 * n);
        write(text, made.left, 175 + 36 * n, "start", "bold");
      });
      const turn = (px, py) => (Math.atan2(middle - py, px - middle) * 180 / Math.PI + 360) % 360;
      const handles = [
        rail.slider(height - 18, sharpness, beta, [0, MOST, 0.1], beta.toFixed(1)),
        { x: tipX, y: tipY, rise: 0, label: query, text: `${angle}°`, min: 0, max: 359, now: angle, step: 1, value: turn },
      ];
      const said = rows.map((row) => row.join(" ")).join(", ");
      return { shapes: [...made.shapes, ...rail.shapes], handles, said };
    },
  };
}
