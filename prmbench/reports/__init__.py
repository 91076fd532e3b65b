"""What is made of entries: comparisons, leaderboards, pages, exports, and their verification."""
