// Words: reset, bits, heads, P, Q, divergence, D(P‖Q), D(Q‖P).
// With: coins.
// With: plot.
// The divergence of two coins in either direction, as Q moves and P stays. state: { p, q }.
{
  const { coins } = explorables, TOP = 3; // bits that are drawn

  explorables.directions = {
    compute: ({ p, q }) => ({ forward: coins.divergence(p, q), backward: coins.divergence(q, p) }),
    set: coins.set,

    draw(state, words, width, height) {
      const { forward, backward } = this.compute(state), { p, q } = state;
      const [, bits, , , , divergence, there, back] = words;
      const plot = coins.plot(state, words, width, height, 22), { x, base, top } = plot;
      const y = (b) => base - (b / TOP) * (base - top);
      const looks = [["curve", 0], ["curve dashed", 1]].map(([kind, colour]) =>
        ({ class: kind, style: `stroke: var(--c${colour})` }));

      plot.headsAxis(`${divergence} (${bits})`, [0, 1, 2, 3].map((b) => [b, y(b)]));
      plot.line(x(q), base, x(q), Math.max(top, y(Math.max(forward, backward))), "thin");
      [(at) => coins.divergence(p, at), (at) => coins.divergence(at, p)].forEach((of, i) =>
        plot.curve(coins.heads.map((at) => [x(at), y(Math.min(of(at), 9999))]), looks[i]));
      // Of two dots in one place both are seen.
      plot.dot(x(q), y(forward), 6, 0);
      plot.dot(x(q), y(backward), 4, 1);
      const said = plot.column([[there, forward, looks[0]], [back, backward, looks[1]]]);
      return { shapes: plot.shapes, handles: plot.handles(0, 1, true), said };
    },
  };
}
