// Requests to the server that the page came from.

/** An answer that is an error; its message is a sentence for the user. */
export class ApiError extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const listeners = new Set();
export const onConnection = (listener) => listeners.add(listener);

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    listeners.forEach((listener) => listener(false));
    throw new ApiError(0, "The server does not answer, or refused the picture before all of it was sent.");
  }
  listeners.forEach((listener) => listener(true));
  if (response.ok) return response;
  let detail = `The server answered with status ${response.status}.`;
  if (response.headers.get("content-type")?.startsWith("application/problem+json")) {
    ({ detail } = await response.json());
  }
  throw new ApiError(response.status, detail, Number(response.headers.get("retry-after") ?? 0));
}

const query = (values) => {
  const text = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined)).toString();
  return text ? `?${text}` : "";
};

export const get = async (path, values = {}, signal = undefined) =>
  (await request(path + query(values), { signal })).json();

export const blob = async (path) => (await request(path)).blob();

/** Send a picture; a server that is busy is asked again, twice. */
export async function caption(picture, values, signal) {
  const headers = { "Content-Type": picture.type.startsWith("image/") ? picture.type : "image/unknown" };
  for (let attempt = 0; ; attempt += 1) {
    try {
      const options = { method: "POST", body: picture, headers, signal };
      return await (await request("/api/captions" + query(values), options)).json();
    } catch (error) {
      if (error.status !== 503 || error.retryAfter > 2 || attempt === 2) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * error.retryAfter));
    }
  }
}
