"""The page that scores images: as a server shows it, and as a folder that scores inside the browser."""
