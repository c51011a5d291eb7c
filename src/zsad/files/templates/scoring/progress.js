// Progress of whatever takes long, with a way to stop it and to go on.

export function connectProgress(find, { cancel, resume }) {
  find("cancel").addEventListener("click", cancel);
  find("continue").addEventListener("click", resume);

  return {
    // `of` = 0: nobody knows how much there is.
    show(what, done, of) {
      find("progress").hidden = false;
      const bar = find("progress-bar");
      if (of) [bar.max, bar.value] = [of, done];
      else bar.removeAttribute("value");
      find("progress-text").textContent = of ? `${what}: ${done} of ${of}` : `${what} …`;
    },

    hide() {
      find("progress").hidden = true;
    },

    showStopped(count) {
      find("stopped").hidden = count === 0;
      find("stopped-text").textContent = count === 1 ? "1 image is not scored" : `${count} images are not scored`;
    },
  };
}
