"use strict";
// What keeps the page from working, said before any module is loaded, which is why
// this script is none.
(function () {
  var fault = "";
  if (location.protocol === "file:") {
    fault =
      "This page was opened as a file, and browsers load models from a web server " +
      "only. Start one in the page’s folder: python3 -m http.server 8000 --bind " +
      "127.0.0.1, then open http://127.0.0.1:8000/.";
  } else if (typeof WebAssembly !== "object") {
    fault =
      "This browser has no WebAssembly, or it is turned off, and the models need it. " +
      "Turn it on, or open the page in another browser.";
  } else if (
    !HTMLScriptElement.supports ||
    !HTMLScriptElement.supports("importmap") ||
    typeof OffscreenCanvas !== "function"
  ) {
    fault = "This browser is too old for the page: use one of 2023 or later.";
  }
  if (fault) {
    document.documentElement.dataset.fault = "true";
    var message = document.getElementById("error");
    message.textContent = fault;
    message.hidden = false;
  } else {
    document.getElementById("status").textContent = "Loading…";
  }
})();
