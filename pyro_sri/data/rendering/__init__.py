"""A small ray caster: convex solids in front of a backdrop, with exact instance masks."""
