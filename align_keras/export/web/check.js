"use strict";
// Checks whether the browser can run the page, and shows the problem otherwise. It is a
// classic script, since it must also run where modules cannot be loaded.
(function () {
  var problem = "";
  if (location.protocol === "file:") {
    problem =
      "This page was opened as a file, but browsers load models only from a web server. " +
      "Start one in the page’s folder: python3 -m http.server 8000 --bind " +
      "127.0.0.1, then open http://127.0.0.1:8000/.";
  } else if (typeof WebAssembly !== "object") {
    problem =
      "This browser has no WebAssembly, or WebAssembly is turned off. The models need " +
      "it. Turn it on, or open the page in another browser.";
  } else if (
    !HTMLScriptElement.supports ||
    !HTMLScriptElement.supports("importmap") ||
    typeof OffscreenCanvas !== "function"
  ) {
    problem = "This browser is too old for the page. Use a browser of 2023 or later.";
  }
  if (problem) {
    document.documentElement.dataset.fault = "true";
    var message = document.getElementById("error");
    message.textContent = problem;
    message.hidden = false;
  } else {
    document.getElementById("status").textContent = "Loading…";
  }
})();
