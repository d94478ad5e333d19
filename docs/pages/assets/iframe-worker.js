// Browsers refuse to start workers in pages that are opened from a disk. This script runs
// the worker of the search in a hidden frame instead. It does nothing on a web server.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.ready = new Promise((resolve, reject) => {
        const start = () => {
          const window = frame.contentWindow;
          window.postMessage = (data) =>
            this.dispatchEvent(new MessageEvent("message", { data }));
          const script = frame.contentDocument.createElement("script");
          script.src = url;
          script.addEventListener("load", () => resolve(window));
          script.addEventListener("error", reject);
          frame.contentDocument.head.append(script);
        };
        frame.addEventListener("load", start, { once: true });
      });
      document.body.append(frame);
    }

    async postMessage(data) {
      const window = await this.ready;
      window.dispatchEvent(new window.MessageEvent("message", { data }));
    }
  };
}
