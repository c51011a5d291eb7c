// Asks for the token of a server that wants one.

// Resolves with what a person types, or null.
export function askToken(find, isWrong) {
  const [dialog, field] = [find("token"), find("token-field")];
  find("token-text").textContent = isWrong
    ? "The server did not accept this token. Type the one that zsad serve was started with."
    : "This server wants the token that it was started with (zsad serve --token).";
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const finish = (token) => {
      find("token-form").onsubmit = find("token-cancel").onclick = dialog.oncancel = null;
      dialog.close();
      resolve(token);
    };
    find("token-form").onsubmit = (event) => {
      event.preventDefault();
      finish(field.value.trim() || null);
    };
    find("token-cancel").onclick = dialog.oncancel = () => finish(null);
  });
}
