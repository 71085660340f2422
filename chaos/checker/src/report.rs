//! A history as a page to look at.
