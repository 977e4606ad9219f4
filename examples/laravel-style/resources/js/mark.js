export function mark(element) {
  element.dataset.ready = 'yes';
}
