// Words: reset, bits, heads, P, Q, cross-entropy, entropy, divergence.
// With: coins.
// With: plot.
// As P moves, the cross-entropy of two coins is a straight line that touches the entropy at Q; how
// far above the entropy it is at P is the divergence. state: { p, q }.
{
  const { coins } = explorables, TOP = 2; // bits that are drawn

  explorables.tangent = {
    compute: ({ p, q }) => ({
      cross: coins.crossEntropy(p, q),
      entropy: coins.crossEntropy(p, p),
      divergence: coins.divergence(p, q),
    }),
    set: coins.set,

    draw(state, words, width, height) {
      const { cross, entropy, divergence } = this.compute(state), { p, q } = state;
      const [, bits, , , , whole, least, more] = words;
      const plot = coins.plot(state, words, width, height, 22), { x, base, top } = plot;
      const y = (b) => base - (b / TOP) * (base - top);
      const hump = { class: "curve", style: "stroke: var(--c0)" };
      const tangent = { class: "strong" };
      const gap = { class: "gap", style: "stroke: var(--c4)" };

      plot.headsAxis(`${whole} (${bits})`, [0, 1, 2].map((b) => [b, y(b)]));
      plot.line(x(q), base, x(q), y(coins.crossEntropy(q, q)), "dashed");
      plot.line(x(p), base, x(p), y(entropy), "thin");
      const high = Math.max(top, y(cross));
      plot.draw("line", { x1: x(p), y1: y(entropy), x2: x(p), y2: high, ...gap });
      if (cross > TOP) plot.draw("path", { d: `M${x(p) - 5} ${top - 2}h10l-5-8z`, style: "fill: var(--c4)" });
      plot.curve(coins.heads.map((at) => [x(at), y(coins.crossEntropy(at, at))]), hump);
      // For a coin that always falls alike the line is upright.
      plot.curve([0, q, 1].map((at) => [x(at), y(Math.min(coins.crossEntropy(at, q), 9999))]), tangent);
      plot.dot(x(q), y(coins.crossEntropy(q, q)), 4.5, 0);
      const said = plot.column([[whole, cross, tangent], [least, entropy, hump], [more, divergence, gap]]);
      return { shapes: plot.shapes, handles: plot.handles(0, 1, true), said };
    },
  };
}
