// Runs before the page is drawn, so that it never flashes in the other colours.
try {
  const theme = localStorage.getItem("steelyard.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is forbidden: the system's colours will do.
}
