-- read_packed: one argument that holds four: two words, then two texts of bytes: 'word word length first..second'.
-- Plain jobs and plain outcomes send '' in its place: each argument costs time on both sides.
local function read_packed(text)
  local one, two, length, at = string.match(text, '^(%S+) (%S+) (%d+) ()')
  length = tonumber(length)
  return one, two, string.sub(text, at, at + length - 1), string.sub(text, at + length)
end
