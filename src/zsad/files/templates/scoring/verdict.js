// The verdict on an image, in words.

const WORDS = {
  normal: "Normal",
  anomalous: "Anomalous",
  undecided: "No threshold yet",
  failed: "Could not be scored",
  waiting: "Waiting",
  scoring: "Scoring …",
  stopped: "Not scored",
};

// kind: what symbol and colours to use; word: the verdict; reason: one line
export function verdictOf(item, state) {
  const verdict = state.verdict(item);
  const kind = ["scoring", "stopped"].includes(verdict) ? "waiting" : verdict;
  return { kind, word: WORDS[verdict], reason: reasonOf(item, verdict, state) };
}

function reasonOf(item, verdict, { threshold, byHand }) {
  if (verdict === "failed") return `${item.name} · ${item.error}`;
  if (item.status !== "done") return item.name;
  const score = `${item.name} · score ${item.score.toFixed(4)}`;
  if (verdict === "undecided") return score;
  const origin = byHand === null ? "" : " set by hand";
  return `${score} · threshold ${Number(threshold.toPrecision(4))}${origin}`;
}
