"""Verification: proofs, their steps with numbers, random problems, networks."""
