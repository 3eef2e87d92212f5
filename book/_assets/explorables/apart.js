// Words: reset, bits, heads, P, Q, error, tosses, Chernoff, D(P‖Q), D(Q‖P).
// With: coins.
// With: plot.
// How often the likelier of two coins is the wrong one, by the number of tosses seen, where either
// is tossed half the time; and the bound of Chernoff. state: { p, q }, both within (0, 1).
{
  const { coins } = explorables, MOST = 100, LOW = 0.001, ENOUGH = 0.05;
  const factorial = [0]; // natural logarithms
  for (let n = 1; n <= MOST; n++) factorial.push(factorial[n - 1] + Math.log(n));

  explorables.apart = {
    compute({ p, q }) {
      const [P, Q] = [p, q].map((of) => [Math.log(of), Math.log1p(-of)]);
      const errors = Array.from({ length: MOST + 1 }, (_, n) => {
        let sum = 0;
        for (let k = 0; k <= n; k++) {
          const least = Math.min(k * P[0] + (n - k) * P[1], k * Q[0] + (n - k) * Q[1]);
          sum += Math.exp(factorial[n] - factorial[k] - factorial[n - k] + least);
        }
        return sum / 2;
      });
      // It may be reached exactly, but for rounding.
      const first = errors.findIndex((error) => error <= ENOUGH + 1e-12);
      // The Chernoff information is the divergence of the coin that is as far from P as from Q.
      const tails = Q[1] - P[1], between = tails / (P[0] - Q[0] + tails);
      return {
        errors,
        tosses: first < 0 ? null : first,
        chernoff: p === q ? 0 : coins.divergence(between, p),
        forward: coins.divergence(p, q),
        backward: coins.divergence(q, p),
      };
    },
    set: coins.set,

    draw(state, words, width, height) {
      const { errors, tosses, chernoff, forward, backward } = this.compute(state);
      const [, , , , , error, count, bound, there, back] = words;
      const plot = coins.plot(state, words, width, height, 44), { left, right, base, top } = plot;
      const x = (n) => left + (n / MOST) * (right - left);
      const y = (e) => base - (Math.log(e / LOW) / Math.log(0.5 / LOW)) * (base - top);
      const curve = { class: "curve", style: "stroke: var(--c0)" };
      const straight = { class: "curve", style: "stroke: var(--c1); stroke-width: 1" };

      plot.axes(error, [0.5, 0.1, ENOUGH, 0.01, LOW].map((e) => [e, y(e)]), [0, 20, 40, 60, 80, 100].map((n) => [n, x(n)]));
      plot.write(count, right + 20, base + 4);
      plot.line(left, y(ENOUGH), right, y(ENOUGH), "dashed");
      plot.curve([0, MOST].map((n) => [x(n), y(0.5 * 2 ** (-n * chernoff))]), straight);
      plot.curve(errors.map((e, n) => [x(n), y(e)]), curve);
      if (tosses !== null) {
        plot.line(x(tosses), base, x(tosses), y(errors[tosses]), "thin");
        plot.dot(x(tosses), y(errors[tosses]), 4.5, 0);
      }
      const said = plot.column([
        [count, String(tosses ?? `> ${MOST}`), curve],
        [bound, chernoff, straight],
        [there, forward],
        [back, backward],
      ]);
      return { shapes: plot.shapes, handles: plot.handles(0.01, 0.99, false), said };
    },
  };
}
