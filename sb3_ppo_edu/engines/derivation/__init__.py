"""PPO's backward pass by hand, in plain numpy: ``engine="numpy"``. The README beside this file derives each formula."""
