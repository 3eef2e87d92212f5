// Words: reset, nats, M, N, classes, candidates, information, log N, loss, bound.
// With: plot.
// What InfoNCE sees of the information of X, one of M equally likely classes, about its copy Y, with
// N candidates and the best critic. state: { m, n }, the logarithms of M and N to base 2.
{
  const { plot, look } = explorables, MOST = 16, { LN2 } = Math;

  // The loss is the mean of log(1 + K), where K of the N - 1 others have the class of the first: a
  // binomial variable, of whose probabilities each is a multiple of the one before it.
  const loss = (classes, candidates) => {
    const others = candidates - 1, top = Math.floor(candidates / classes);
    if (classes === 1) return Math.log(candidates);
    let sum = 0, mean = 0;
    const add = (k, p) => {
      sum += p;
      mean += p * Math.log1p(k);
      return p > 1e-20;
    };
    for (let k = top, p = 1; k <= others && add(k, p); k++) p *= (others - k) / (k + 1) / (classes - 1);
    for (let k = top, p = 1; k > 0 && add(k - 1, (p *= (k * (classes - 1)) / (others - k + 1))); k--);
    return mean / sum;
  };

  explorables.saturation = {
    compute({ m, n }) {
      const one = loss(2 ** m, 2 ** n), most = n * LN2;
      return { information: m * LN2, most, loss: one, bound: Math.max(0, most - one) };
    },

    set: (state, i, value) => ({ ...state, ["nm"[i]]: value }),

    draw({ m, n }, words, width, height) {
      const found = this.compute({ m, n });
      const [, nats, M, N, classes, candidates, known, most, lost, bound] = words;
      const made = plot(28, width - (width < 480 ? 100 : 112), 26, height - 116), { x, base } = made;
      const y = (value) => made.y(value / (MOST * LN2)), at = (k) => x(k / MOST);

      made.axes(nats, [0, 2, 4, 6, 8, 10].map((value) => [value, y(value)]), [0, 4, 8, 12, 16].map((k) => [2 ** k, at(k)]));
      made.line(at(0), y(0), at(MOST), y(MOST * LN2), "dashed");
      made.curve([0, 1].map((end) => [x(end), y(found.information)]), look(1));
      made.curve(Array.from({ length: 65 }, (_, i) => {
        const count = Math.round(2 ** (i / 4));
        return [at(Math.log2(count)), y(Math.log(count) - loss(2 ** m, count))];
      }), look(0));
      made.line(at(n), base, at(n), y(found.bound), "thin");
      made.dot(at(n), y(found.bound), 4.5, 0);
      const said = made.column([
        [known, found.information, look(1)],
        [most, found.most, { class: "dashed" }],
        [lost, found.loss],
        [bound, found.bound, look(0)],
      ], nats);
      const handles = [[N, candidates, n], [M, classes, m]].map(([letter, word, now], i) =>
        made.slider(base + 46 + 36 * i, `${letter}, ${word}`, now, [0, MOST, 1], String(2 ** now)));
      handles[0].rise = handles[0].y - 26;
      return { shapes: made.shapes, handles, said };
    },
  };
}
