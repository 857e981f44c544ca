// Runs before anything is drawn: the token leaves the address bar, and the theme is the chosen one.
// A person who is logged in already and opens an address with a token becomes who the token is for.
"use strict";
{
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) {
    history.replaceState(null, "", location.pathname + location.search);
    window.loggedIn = fetch("login", {
      method: "POST", headers: {Authorization: `Bearer ${token}`}, credentials: "same-origin",
    }).catch(() => null);
  }
  const place = new URL(".", location.href).pathname;
  try {
    document.documentElement.dataset.theme = localStorage.getItem(`theme ${place}`) ?? "system";
  } catch {
    document.documentElement.dataset.theme = "system";  // the browser keeps nothing for pages
  }
}
