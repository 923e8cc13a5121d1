"""The paper's claim at small scale: towers side by side, with a paired test, whichever way it comes out."""
