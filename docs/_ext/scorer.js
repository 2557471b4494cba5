// The search's order: what is written for readers comes before the API, sources and the Chinese edition.
var Scorer = {
  // Sphinx's own numbers, which it wants stated where there is a scorer
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,

  // [docname, title, anchor, descr, score]; no score of Sphinx's is above 100
  score: ([page, , , , score]) => {
    const under = (...places) => places.some((place) => page.startsWith(place));
    if (under("generated/api/", "generated/sources/")) return score;
    if (under("generated/notebooks/zh/", "verification", "benchmarks", "judged-packages", "generated/article")) return score + 200;
    if (under("generated/notebooks/")) return score + 999;
    return score + (under("generated/algorithms/") ? 1001 : 1000);
  },
};
