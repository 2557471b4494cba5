"""``gradcheck verify``: proofs, their steps with numbers, random problems, networks."""
