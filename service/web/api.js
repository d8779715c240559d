// Requests to the service: JSON in, JSON out; what it refuses, or does not answer, is a Problem.

const KEY = "nametag.key";
const MOST_TRIES = 4;

// Kept as long as the tab, and nowhere else.
let key = sessionStorage.getItem(KEY) ?? "";

export class Problem extends Error {
  // status: 0 where there was no answer. needsKey: a key is missing or wrong.
  constructor(message, status) {
    super(message);
    this.status = status;
    this.needsKey = status === 401 || status === 403;
  }
}

export function useKey(value) {
  key = value.trim();
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return key !== "";
}

// The answer's JSON. Asks again where the service is busy for a moment. Throws Problem, and what an
// aborted fetch throws.
export async function call(path, body, signal) {
  const headers = key ? {authorization: `Bearer ${key}`} : {};
  const init = {headers, signal};
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    init.method = "POST";
    init.body = JSON.stringify(body);
  }
  for (let tries = 1; ; tries++) {
    const answer = await answerOf(path, init);
    if (answer.ok) return answer.json();
    const waitS = Number(answer.headers.get("retry-after"));
    if (!waitS || waitS > 10 || tries === MOST_TRIES) throw await problemOf(answer);
    await pause(waitS * 1000, signal);
  }
}

async function answerOf(path, init) {
  try {
    return await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer. Is it running?", 0);
  }
}

async function problemOf(answer) {
  const problem = await answer.json().catch(() => ({}));
  const {title = `The service answered ${answer.status}`, detail = ""} = problem;
  return new Problem(detail ? `${title}: ${detail}.` : `${title}.`, answer.status);
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
