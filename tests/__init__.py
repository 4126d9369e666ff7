"""Tests of sb3_ppo_edu."""
