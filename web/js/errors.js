/** A fault that the page tells its user in one message; texts.js has the words. */
export class PageError extends Error {
  /**
   * @param {string} key Name of the message in texts.js.
   * @param {object} values What the message says of the case at hand.
   */
  constructor(key, values = {}) {
    super(key);
    this.key = key;
    this.values = values;
  }
}
