// What a threshold promises about new good images, from the scores of good images.
// The formulas, their sources and the proofs stand in zsad/detector/calibration/statistics.py and
// zsad/detector/fitting/statistics.py; tests compare the two.

const SPREAD_MARGIN = 1e-3; // of the spread of the scores, so that rounding pushes none over the threshold
const SMALLEST_MARGIN = 1e-6;

// The probability that at most a share `rate` of new good images reaches the threshold: P(Binomial(n, rate) > k).
export function promisedConfidence(images, alarms, rate) {
  if (rate <= 0) return 0;
  if (rate >= 1) return 1;
  let logarithm = images * Math.log1p(-rate);
  let sum = Math.exp(logarithm);
  for (let k = 0; k < alarms; k += 1) {
    logarithm += Math.log(((images - k) / (k + 1)) * (rate / (1 - rate)));
    sum += Math.exp(logarithm);
  }
  return 1 - sum;
}

// The share of new good images that does not reach the threshold more often, with a given confidence.
export function promisedRate(images, alarms, confidence) {
  if (alarms >= images) return 1;
  let [low, high] = [0, 1];
  for (let step = 0; step < 60; step += 1) {
    const middle = (low + high) / 2;
    if (promisedConfidence(images, alarms, middle) < confidence) low = middle;
    else high = middle;
  }
  return high;
}

// The share on average over sets of good images. `leftOut`: how many images were left out of the references
// together to score each of them; 0 for images that are no references.
export function averageRate(images, alarms, leftOut) {
  const share = leftOut ? (2 * alarms + leftOut) / (images + leftOut) : (alarms + 1) / (images + 1);
  return Math.min(1, share);
}

// How many of n good images may reach the threshold while the promise still holds.
export function alarmsAllowed(images, rate, confidence) {
  let allowed = 0;
  while (allowed + 1 <= Math.floor(images * rate) && promisedConfidence(images, allowed + 1, rate) >= confidence) {
    allowed += 1;
  }
  return allowed;
}

// A threshold that at most k of the scores reach, exact in single precision.
export function thresholdAbove(scores, alarms) {
  const ordered = Float64Array.from(scores).sort();
  const last = ordered.length - 1;
  const below = ordered[last - alarms];
  const margin = Math.max(SPREAD_MARGIN * (ordered[last] - ordered[0]), SMALLEST_MARGIN * Math.max(1, Math.abs(below)));
  const higher = ordered.find((score) => score > below);
  return roundUp(higher === undefined ? below + margin : Math.min(below + margin, below + (higher - below) / 2));
}

// One or two sentences on what a threshold means for good images.
// model: with the scores of its good images, and how many were left out together to score each of them
export function promiseSentences(model, threshold) {
  const scores = model.normal_scores;
  const alarms = scores.filter((score) => score >= threshold).length;
  const reach = `${alarms} of ${counted(scores.length, "good image")} ${alarms === 1 ? "reaches" : "reach"} this threshold.`;
  const average = percent(averageRate(scores.length, alarms, model.left_out));
  const confidence = model.confidence ?? 0.95;
  const about = model.left_out ? "about " : "";
  const most = percent(promisedRate(scores.length, alarms, confidence));
  return {
    alarms: reach,
    promise:
      `Of new good images, on average at most ${average} are called anomalous; ` +
      `with ${about}${percent(confidence)} confidence at most ${most}.`,
  };
}

export function counted(number, noun) {
  return `${number} ${number === 1 ? noun : `${noun}s`}`;
}

// The space before the sign does not break.
export function percent(share) {
  const value = 100 * share;
  if (value > 99 && value < 100) return `${Number(value.toPrecision(4))}\u00A0%`;
  return `${value >= 20 ? Math.round(value) : Number(value.toPrecision(3))}\u00A0%`;
}

function roundUp(value) {
  const single = new Float32Array([value]);
  if (single[0] < value) {
    const bits = new Int32Array(single.buffer);
    bits[0] += value > 0 ? 1 : -1; // the next larger number
  }
  return single[0];
}
