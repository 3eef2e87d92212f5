// Words: reset, temperature, magnetisation, probability of the energy, divergence, nats, Gibbs, product, per spin, energy, entropy, free energy, |m|.
// With: plot.
// A small magnet, nine spins on a torus coupled by 1: the law of Gibbs, and a trial law under which
// the spins are independent, each with mean m. state: { temperature, m }.
{
  const { plot, look, shown } = explorables, TOP = 4; // nats drawn
  const LEVELS = [-18, -10, -6, -2, 2, 6], SPINS = 9;
  // How many of all states have an energy and a number of spins up.
  const ways = LEVELS.map(() => Array(SPINS + 1).fill(0));
  for (let state = 0; state < 1 << SPINS; state++) {
    const spins = Array.from({ length: SPINS }, (_, i) => ((state >> i) & 1 ? 1 : -1));
    const bonds = spins.map((s, i) => s * (spins[i - (i % 3) + ((i + 1) % 3)] + spins[(i + 3) % SPINS]));
    const energy = -bonds.reduce((sum, x) => sum + x);
    ways[LEVELS.indexOf(energy)][spins.filter((s) => s > 0).length]++;
  }

  // A law by the probability of each state with an energy and a number of spins up.
  const law = (chance, temperature) => {
    let energy = 0, entropy = 0, magnet = 0;
    const levels = LEVELS.map((e, i) => ways[i].reduce((sum, count, ups) => {
      const p = chance(e, ups), share = count * p;
      energy += (share * e) / SPINS;
      entropy -= share ? (share * Math.log(p)) / SPINS : 0;
      magnet += (share * Math.abs(2 * ups - SPINS)) / SPINS;
      return sum + share;
    }, 0));
    return { levels, energy, entropy, free: energy - temperature * entropy, magnet };
  };
  const product = (m, t) => law((_, ups) => ((1 + m) / 2) ** ups * ((1 - m) / 2) ** (SPINS - ups), t);
  const gibbs = (t) => {
    const weight = (e) => Math.exp((LEVELS[0] - e) / t), { levels } = law(weight, t);
    const whole = levels.reduce((sum, x) => sum + x);
    return law((e) => weight(e) / whole, t);
  };
  const trials = Array.from({ length: 101 }, (_, i) => i / 100);
  const bill = (trial, { free }, t) => Math.max(0, (SPINS * (trial.free - free)) / t);

  explorables.ising = {
    compute({ temperature, m }) {
      const laws = [gibbs(temperature), product(m, temperature)];
      return { gibbs: laws[0], product: laws[1], divergence: bill(laws[1], laws[0], temperature) };
    },

    set: (state, i, value) => ({ ...state, [["temperature", "m"][i]]: value }),

    draw({ temperature, m }, words, width, height) {
      const { divergence, ...laws } = this.compute({ temperature, m });
      const [, hot, magnet, chance, more, nats, ...rest] = words, names = rest.splice(0, 2);
      const base = height - 134, half = width / 2, row = (n) => height - 54 + 17 * n;
      const left = plot(26, half - 12, 26, base), right = plot(half + 24, width - 20, 26, base);
      const y = (d) => right.y(Math.min(d, 9999) / TOP), place = (i) => left.x((i + 0.5) / LEVELS.length);
      const wide = (left.right - left.left) / 16, first = width < 480 ? 58 : 84;
      const table = (n, texts) => texts.forEach((text, i) =>
        left.write(text, first + ((i + 0.5) * (width - first)) / 4, row(n), "middle"));

      Object.values(laws).forEach(({ levels, ...means }, k) => {
        levels.forEach((p, i) => left.bar(place(i) + (k - 1) * wide, left.y(p), wide, base - left.y(p), k));
        left.bar(0, row(k + 1) - 9, 9, 9, k);
        left.write(names[k], 13, row(k + 1));
        table(k + 1, Object.values(means).map((x) => shown(0 + Math.round(1e3 * x) / 1e3)));
      });
      table(0, rest.slice(1));
      left.write(rest[0], 0, row(0));
      const said = `${more} ${shown(divergence)} ${nats}`;
      left.write(said, 0, row(3), "start", "bold");
      left.axes(chance, [0, 0.5, 1].map((p) => [p, left.y(p)]), LEVELS.map((e, i) => [e, place(i)]));

      right.axes(`${more} (${nats})`, [0, 1, 2, 3, 4].map((d) => [d, y(d)]), [0, 0.5, 1].map((at) => [at, right.x(at)]), half);
      right.curve(trials.map((at) => [right.x(at), y(bill(product(at, temperature), laws.gibbs, temperature))]), look(1));
      right.draw("line", { x1: right.x(m), y1: base, x2: right.x(m), y2: Math.max(26, y(divergence)), ...look(4, "gap") });
      right.dot(right.x(m), y(divergence), 4.5, 1);
      const handles = [
        left.slider(base + 44, hot, temperature, [0.5, 6, 0.05], temperature.toFixed(2)),
        right.slider(base + 44, magnet, m, [0, 1, 0.01], m.toFixed(2)),
      ];
      handles[1].rise = 44 + base - 26;
      return { shapes: left.shapes.concat(right.shapes), handles, said };
    },
  };
}
