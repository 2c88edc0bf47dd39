"""Online models with delayed labels: conversion, click-through and churn are configurations of one mechanism."""
