-- keys: names of the keys that belong to KEYS[1], the tag.  Python builds the same names in keys.py.
local T = KEYS[1]
local function named(kind, name)
  return T .. ':' .. kind .. ':' .. name
end
local function single(kind)
  return T .. ':' .. kind
end
